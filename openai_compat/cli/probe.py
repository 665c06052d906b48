"""The command probe: what can this server do?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, OpenAICompatError
from .connect import connected
from .screen import Screen

if TYPE_CHECKING:
    from ..probe.report import Probe


@click.argument("url", required=False)
@click.option("--embedding-model", metavar="NAME", help="The model to ask for vectors, if it is another.")
@click.option("--only", metavar="NAMES", help="Ask only about these features, separated by commas.")
@click.option("--require", metavar="NAMES", help="Exit with status 1 unless the server has all of these features.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was found to a file, which Client(dialect=...) takes.",
)
@click.option(
    "--each",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that each question may take.",
)
@click.option("--markdown", is_flag=True, help="Print a table in Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, for scripts.")
def probe(url: str | None, **given: Any) -> None:
    """Find out what a server can do, with a few dozen small requests.

    URL is its address, as for --base-url. Ctrl-C shows what is known by then.
    """
    from ..probe.run import ABOUT_TOKENS, check_features, most_requests

    if url and given["base_url"]:
        raise ConfigurationError("the server's address is given twice: as URL and as --base-url")
    given["base_url"] = url or given["base_url"]
    if given["as_json"] and given["markdown"]:
        raise ConfigurationError("--json and --markdown cannot be combined")
    save: Path | None = given["save"]
    if save is not None and not save.parent.is_dir():
        raise ConfigurationError(f"cannot write {str(save)!r}: there is no folder {str(save.parent)!r}")
    required, only = check_features(_names(given["require"])), check_features(_names(given["only"]))
    screen = Screen(quiet=given["quiet"])
    with connected(given, screen, purpose=None) as client:
        most = most_requests((*only, *required) if only else ())
        tokens = f", about {ABOUT_TOKENS:,} tokens (20 times that if the model thinks)" if not only else ""
        screen.note(f"asking {client.provider} at {client.base_url}: up to {most} small requests{tokens}")
        with screen.waiting("asking"):
            found = client.probe(
                embedding_model=given["embedding_model"],
                timeout=given["each"],
                only=(*only, *required) if only else (),
            )
    _show(found, given)
    if not sys.stdout.isatty():  # else it stands there
        screen.note(found.spent)
    if save is not None:
        found.save(save)
    if found.interrupted:
        raise KeyboardInterrupt
    if all(row.finding in ("failed", "skipped") for row in found.rows):
        raise OpenAICompatError(next((row.detail for row in found.rows if row.detail), "nothing was answered"))
    if missing := found.missing(required):
        told = {row.name: row.finding for row in found.rows}
        raise OpenAICompatError(f"missing: {', '.join(f'{name} ({told.get(name)})' for name in missing)}")


def _names(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]


def _show(found: Probe, given: dict[str, Any]) -> None:
    if given["as_json"]:
        print(found.to_json(), flush=True)
    elif given["markdown"]:
        print(found.to_markdown(), flush=True)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(found)
    else:
        print(found, flush=True)
