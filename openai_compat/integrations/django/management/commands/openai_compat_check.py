"""``manage.py openai_compat_check``: does each client reach its server, and does the model answer?"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....errors import NotFoundError, OpenAICompatError, ResponseParseError, ResponseShapeError
from ...clients import configured, get_client


class Command(BaseCommand):
    """Asks each client's server for its models, and the model for an answer."""

    help = "Try the connection of each client of settings.OPENAI_COMPAT: list the models, and ask a question."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--client", action="append", metavar="ALIAS", help="only this one; may be repeated")
        parser.add_argument("--prompt", default="Say hello.", help="the question (default: %(default)s)")
        parser.add_argument("--model", help="in place of the client's")
        parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each request (default: 60)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            aliases = options["client"] or list(configured())
        except OpenAICompatError as error:
            raise CommandError(str(error)) from None
        failed = [alias for alias in aliases if not self._works(alias, options)]
        if failed:
            raise CommandError(f"{len(failed)} of {len(aliases)} clients failed: {', '.join(failed)}")

    def _works(self, alias: str, options: dict[str, Any]) -> bool:
        self.stdout.write(self.style.MIGRATE_HEADING(alias))
        try:
            client = get_client(alias)
            self.stdout.write(f"  server: {client.base_url} ({client.provider})")
            try:
                offered = [model.id for model in client.models(timeout=options["timeout"])]
                self.stdout.write(f"  models: {', '.join(offered[:5]) or 'none'}{', …' if len(offered) > 5 else ''}")
            except (NotFoundError, ResponseParseError, ResponseShapeError):
                offered = []
                self.stdout.write("  models: the server does not list them")
            # A model that is the only one needs no setting.
            model = options["model"] or client.model or (offered[0] if len(offered) == 1 else None)
            answer = client.chat(options["prompt"], model=model, max_tokens=50, timeout=options["timeout"])
        except OpenAICompatError as error:
            self.stdout.write(self.style.ERROR(f"  {type(error).__name__}: {error}"))
            return False
        took = f"{answer.latency_ms / 1000:.1f} s, {answer.output_tokens} tokens"
        self.stdout.write(f"  answer: {answer.text.strip() or answer.reasoning.strip()!r} ({took}, {answer.model})")
        self.stdout.write(self.style.SUCCESS("  works"))
        return True
