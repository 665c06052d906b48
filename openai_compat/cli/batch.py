"""The command ``batch``: a file of requests, and one of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BudgetExceededError, ConfigurationError, OpenAICompatError, UnknownPriceError
from .connect import connected
from .options import as_json, server
from .screen import Screen, print_json

if TYPE_CHECKING:
    from ..limits.budget import Spent


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write."
)
@click.option(
    "-t",
    "--template",
    metavar="TEXT",
    help='For a .csv or .jsonl file of rows: what to ask of each, such as "Summarise: {text}".',
)
@click.option("-s", "--system", metavar="TEXT", help="With --template: instructions for the model.")
@click.option("--max-tokens", type=int, help="With --template: limit of an answer's tokens.")
@click.option("--workers", type=click.IntRange(min=1), default=16, show_default=True, help="Requests at a time.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the answers are until all have come; by default beside the output.",
)
@click.option(
    "--submit",
    is_flag=True,
    help="Through the provider's own Batch API, which takes longer and costs less; without --workers and --budget.",
)
@click.option("--retry-failed", is_flag=True, help="Ask again what failed in an earlier run, whatever the reason.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Stop before this run costs more dollars. What it costs is known with --price, or with the extra 'prices'.",
)
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    nargs=2,
    metavar="INPUT OUTPUT",
    help="Dollars for a million tokens, in place of the model's known price.",
)
@as_json
@server
def batch(source: Path, output: Path, **given: Any) -> None:
    """Run a file of requests, and write a file of answers.

    SOURCE is a file made for OpenAI's Batch API, or with --template a table. A run that was stopped or killed goes on
    where it was when the same command is given again.
    """
    from ..limits.budget import budget
    from ..wire.prices import Price

    screen = Screen(quiet=given["quiet"])
    asked = {name: given[name] for name in ("system", "max_tokens") if given[name] is not None}
    if asked and given["template"] is None:
        raise ConfigurationError("--system and --max-tokens are for --template: the lines of a file say what is asked")
    if given["price"] is not None:
        given["prices"] = Price(input=given["price"][0], output=given["price"][1])
    options: dict[str, Any] = {
        "template": given["template"],
        "progress": None if given["quiet"] else True,
        "retry_failed": True if given["retry_failed"] else None,
        **({"journal": given["journal"]} if given["journal"] else {}),
        **asked,
    }
    if not given["submit"]:
        options["workers"] = given["workers"]
    with connected(given, screen, purpose="chat") as client, budget(usd=given["budget"]) as spent:
        try:
            done = (client.submit_file if given["submit"] else client.map_file)(source, output, **options)
        except BudgetExceededError as error:
            raise OpenAICompatError(
                f"stopped at ${spent.usd:.4f}, as the next request could cost more than the ${error.limit:g} given; "
                f"the answers to {spent.requests} are kept, and the same command goes on after them"
            ) from error
        except UnknownPriceError as error:
            raise ConfigurationError(
                "--budget needs the model's price, which is not known: give --price INPUT OUTPUT, in dollars for a "
                "million tokens"
            ) from error
    if given["as_json"]:
        import attrs

        print_json({**attrs.asdict(done), "usd": None if spent.unpriced or given["submit"] else spent.usd})
        return
    told = [f"{done.answered} answered", f"{done.failed} failed" * bool(done.failed)]
    told.append(f"{done.from_journal} of these by an earlier run" * bool(done.from_journal))
    told.append(_cost(spent))
    screen.note(f"{', '.join(filter(None, told))}: {output}")


def _cost(spent: Spent) -> str:
    """What a run has cost, as far as that is known."""
    if spent.requests == spent.unpriced:
        return ""
    unknown = f", and {spent.unpriced} at an unknown price" if spent.unpriced else ""
    return f"${spent.usd:.4f} spent{unknown}"
