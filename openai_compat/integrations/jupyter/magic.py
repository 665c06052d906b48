"""The extension for IPython: the cell magic ``%%chat``, and short tracebacks."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

from ...display.escape import encodable
from ...errors import OpenAICompatError
from ...wire.response import ChatResponse
from .shell import redraws
from .sink import NotebookSink
from .streams import close_streams_of_failed_cells, leave_streams_open
from .tracebacks import restore_tracebacks, shorten_tracebacks, show_one_line

if TYPE_CHECKING:
    from ...client import Client
    from ...conversation import Conversation


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext openai_compat.integrations.jupyter``: the cell magic ``%%chat``, and short tracebacks."""
    from IPython.core.magic import no_var_expand

    parser = _options()
    help_ = parser.format_help() + _MAGIC_HELP

    def chat(line: str, cell: str) -> None:
        _Chat(shell, parser, help_).run(line, cell)

    chat.__doc__ = help_
    shell.register_magic_function(no_var_expand(chat), "cell", "chat")
    if _with_body not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_with_body)
    shorten_tracebacks(shell)
    close_streams_of_failed_cells(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext openai_compat.integrations.jupyter``."""
    shell.magics_manager.magics["cell"].pop("chat", None)
    if _with_body in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_with_body)
    restore_tracebacks(shell)
    leave_streams_open(shell)


def _with_body(lines: list[str]) -> list[str]:
    """A cell that is only ``%%chat --help``, with an empty line below: IPython runs no cell magic without a body."""
    words = lines[0].split() if len(lines) == 1 else []
    return [*lines, "\n"] if words[:1] == ["%%chat"] and {"-h", "--help"} & {*words} else lines


def _options() -> Any:
    """The parser of the options of ``%%chat``."""
    from IPython.core.magic_arguments import MagicArgumentParser

    parser: Any = MagicArgumentParser(  # type: ignore[no-untyped-call]
        "%%chat", description="Ask a model what the rest of the cell says."
    )
    parser.add_argument("-m", "--model", help="the model's name")
    parser.add_argument("-s", "--system", metavar="TEXT", help="instructions for the model: the system message")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="limit of the answer's tokens")
    parser.add_argument(
        "-t", "--temperature", type=float, metavar="NUMBER", help="0 nearly always gets the same answer"
    )
    parser.add_argument("--base-url", metavar="URL", help="where the server is")
    parser.add_argument("--provider", metavar="NAME", help="a known provider: openai, ollama, groq, ...")
    parser.add_argument("--local", action="store_true", help="if nothing names a server, look for one on this machine")
    parser.add_argument("--to", metavar="NAME", help="the variable that gets the answer, a ChatResponse")
    parser.add_argument("-c", "--conversation", metavar="NAME", help="the Conversation to continue, or to begin")
    parser.add_argument("--plain", action="store_true", help="print the text as it comes, without redrawing")
    parser.add_argument("--no-stream", action="store_true", help="show the answer in one piece")
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    return parser


class _Chat:
    """One cell with ``%%chat``."""

    def __init__(self, shell: Any, parser: Any, help_: str) -> None:
        self._shell = shell
        self._parser = parser
        self._help = help_

    def run(self, line: str, cell: str) -> None:
        try:
            options = self._parse(line)
            if options.help:
                sys.stdout.write(self._help)
            else:
                self._chat(options, cell)
        except OpenAICompatError as error:
            # Nothing of the traceback is the user's own code.
            show_one_line(error, f"{type(error).__name__}: {error}")
            raise

    def _parse(self, line: str) -> Any:
        from IPython.core.error import UsageError

        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"%%chat {line}: {error}") from None
        options = self._parser.parse_args([_expanded(word, self._shell) for word in words])
        for name in (options.to, options.conversation):
            if name is not None and not name.isidentifier():
                raise UsageError(f"%%chat: {name!r} is not a variable name")
        return options

    def _chat(self, options: Any, cell: str) -> None:
        namespace = self._shell.user_ns
        prompt = _expanded(cell.strip(), self._shell)
        fields = {
            name: value
            for name in ("model", "system", "max_tokens", "temperature")
            if (value := getattr(options, name)) is not None
        }
        if not options.no_stream:
            fields["sink"] = NotebookSink(plain=options.plain)
        if options.conversation:
            conversation = self._conversation(options, fields)
            answer = conversation.say(prompt, **fields)
            namespace[options.conversation] = conversation
        else:
            answer = self._client(options).chat(prompt, **fields)
        if options.to:
            namespace[options.to] = answer
        if options.no_stream:
            _show(answer, self._shell)

    def _conversation(self, options: Any, fields: dict[str, Any]) -> Conversation:
        """The one that the notebook has under this name, or a new one with the model and system message given."""
        from IPython.core.error import UsageError

        from ...conversation import Conversation

        found = self._shell.user_ns.get(options.conversation)
        if found is None:
            kept = {name: fields.pop(name) for name in ("model", "system") if name in fields}
            return Conversation(self._client(options).chat, **kept)
        if not isinstance(found, Conversation):
            raise UsageError(f"%%chat: {options.conversation} is a {type(found).__name__}, not a Conversation")
        if options.base_url or options.provider:
            raise UsageError(f"%%chat: {options.conversation} continues with its own server")
        return found

    def _client(self, options: Any) -> Client:
        """For what the options name, else the notebook's own ``client``, else the environment, else this machine."""
        from ...client import Client
        from ...server_options import server_options

        named = {name: value for name in ("base_url", "provider") if (value := getattr(options, name))}
        own = self._shell.user_ns.get("client")
        if not named and isinstance(own, Client):
            return own
        return Client(**server_options(named, local=Client if options.local else None, spelling=_SPELLING))


_SPELLING = {"base_url": "--base-url", "local": "--local"}
"""How errors spell what would help. A key does not belong in a notebook."""
_MAGIC_HELP = """
In the text and in options, $name and $name.attribute stand for values of the notebook, ${expression} for that of an
expression, and $$ for a dollar sign.
The server is the one that --base-url or --provider names, else that of the notebook's own `client`, else the one that
the environment names (Client.from_env), else with --local the first on a well-known port of this machine.
"""
_VARIABLE = re.compile(r"\$(?:(\$)|([^\W\d]\w*(?:\.[^\W\d]\w*)*)|\{([^{}]+)\})")


def _expanded(text: str, shell: Any) -> str:
    """The text with the notebook's variables filled in. IPython's own way stumbles over braces and apostrophes."""
    from IPython.core.error import UsageError

    def value(found: re.Match[str]) -> str:
        dollar, name, expression = found.groups()
        if dollar:
            return "$"
        try:
            value = shell.ev(name or expression)
        except Exception as error:
            raise UsageError(f"%%chat: {found[0]}: {error} (write $$ for a dollar sign)") from None
        return value.text if isinstance(value, ChatResponse) else str(value)

    return _VARIABLE.sub(value, text)


def _show(answer: ChatResponse, shell: Any) -> None:
    if not redraws(shell):
        sys.stdout.write(answer.text + "\n")
        return
    from IPython.display import display

    from ...display.html import to_html

    page = {"text/html": to_html(answer), "text/plain": encodable(answer.text)}
    display(page, raw=True)  # type: ignore[no-untyped-call]
