"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable

import click

from .connect import EMBEDDED

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _together(*options: Decorator) -> Decorator:
    """Several options as one decorator."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


as_json: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, for scripts."
)
unattended: Decorator = _together(
    click.option("-q", "--quiet", is_flag=True, help="Only errors on stderr."),
    click.option("--yes", is_flag=True, help="Install the embedded server's model, if missing, without asking."),
)
server: Decorator = _together(
    click.option("-m", "--model", envvar="OPENAI_MODEL", show_envvar=True,
                 help="The model's name, or the path of a .gguf file for the embedded server. "
                 "For a server on this machine, the default is the first suitable one that it lists."),
    click.option("--base-url", metavar="URL", help="The server's address, such as http://localhost:11434/v1."),
    click.option("--provider", metavar="NAME",
                 help=f"A known provider (openai, ollama, groq, ...), or '{EMBEDDED}' for the server in this package."),
    click.option("--api-key", metavar="KEY",
                 help="The key. Safer in the environment (OPENAI_API_KEY, or the provider's own variable): "
                 "other users of this machine can see a command line."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Limit for the whole call."),
    click.option("--max-retries", type=click.IntRange(min=0), default=2, show_default=True,
                 help="Retries after temporary failures."),
    unattended,
)  # fmt: skip
