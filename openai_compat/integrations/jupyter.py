"""Jupyter: answers that appear in a notebook while they come, and the cell magic ``%%chat``.

::

    client.chat("Why is the sky blue?", sink=NotebookSink())

    %load_ext openai_compat.integrations.jupyter

Needs ``pip install 'openai-compat[jupyter]'``. In plain IPython and in a terminal the same code prints the text.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import _html
from ..errors import Cancelled, ConfigurationError, OpenAICompatError
from ..sinks import PrintSink
from ..wire.response import ChatResponse, StreamEvent

if TYPE_CHECKING:
    from ..client import Client
    from ..conversation import Conversation
    from ..wire.messages import ToolCall

__all__ = ["NotebookSink", "load_ipython_extension", "unload_ipython_extension"]

REDRAW_SECONDS = 0.1
"""Least time between two redraws."""
REDRAW_BYTES_PER_SECOND = 20_000
"""Most that redraws send: the longer an answer, the rarer they are, and all of them together stay linear in time."""
REDRAW_SHARE = 0.1
"""Most of the time that goes into drawing."""
DRAFT_REASONING = 2000
"""Characters of the reasoning that are shown before the answer is complete: the last ones."""


class NotebookSink:
    """Shows each answer while it comes: one output, redrawn in place as Markdown, with its reasoning folded.

    A line below it counts the tokens. The interrupt button ends the call: the output keeps what came, marked as
    stopped. What the model says can run no script and load no image. Of several choices (``n=2``) the first is shown.

    Outside a notebook, it prints the text as it comes.

    Raises:
        ConfigurationError: in a notebook without the extra ``jupyter``.
    """

    def __init__(self) -> None:
        self._shell = _notebook()
        self._printer = PrintSink()
        self._draft: _Draft | None = None
        if self._shell is not None:
            _load_markdown()
            _shorten_interrupts(self._shell)

    def emit(self, event: StreamEvent) -> None:
        """Show an event."""
        if self._shell is None:
            self._printer.emit(event)
        elif event.response is not None:
            self._begun().finish(event.response)
            self._end()
        elif event.error is not None:
            self._give_up("cancelled" if isinstance(event.error, Cancelled) else type(event.error).__name__)
        elif event.data and not event.index:
            self._begun().take(event)

    def _begun(self) -> _Draft:
        """The draft of this answer."""
        if self._draft is None:
            self._draft = _Draft()
            self._shell.events.register("post_execute", self._cell_ended)
        return self._draft

    def _end(self) -> None:
        self._draft = None
        self._shell.events.unregister("post_execute", self._cell_ended)

    def _give_up(self, why: str) -> None:
        if self._draft is not None:
            self._draft.give_up(why)
            self._end()

    def _cell_ended(self) -> None:
        # Nobody tells a sink of an interrupt. One that is called on another thread goes on beyond its cell.
        if self._draft is not None and self._draft.thread is threading.current_thread():
            self._give_up("stopped")


class _Draft:
    """An answer on its way, and the output that shows it.

    What may not be drawn yet is drawn by a timer, so that nothing stays out of sight while the model is silent.
    """

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._began = time.monotonic()
        self._due = 0.0
        self._ended = False
        self._handle: Any = None

    def take(self, event: StreamEvent) -> None:
        """Add what came, and see that it is shown."""
        with self._lock:
            if event.tool_call is not None:
                self._calls.append(event.tool_call)
            elif event.reasoning:
                self._reasoning.append(event.reasoning)
            elif event.delta or event.refusal:
                self._text.append(event.delta or event.refusal)
            else:
                return
            if self._timer is None:
                self._draw_when_due()

    def finish(self, answer: ChatResponse) -> None:
        """Show the whole answer."""
        text = answer.text or answer.refusal
        note = _html.call_note(answer) if answer.usage else f"{_html.call_note(answer)} · {self._counted()}"
        self._show_last(_html.answer_html(text, answer.reasoning, answer.tool_calls, note), text)

    def give_up(self, why: str) -> None:
        """Show what came, and why no more will."""
        text = "".join(self._text)
        note = f"{why} · {self._counted()}"
        self._show_last(_html.answer_html(text, "".join(self._reasoning), self._calls, note), text)

    def _draw_when_due(self) -> None:
        wait = self._due - time.monotonic()
        if wait <= 0:
            self._draw()
        else:
            self._timer = threading.Timer(wait, self._draw)
            self._timer.daemon = True
            self._timer.start()

    def _draw(self) -> None:
        with self._lock:
            self._timer = None
            if self._ended:
                return
            began = time.monotonic()
            page = self._page()
            self._show({"text/html": page})
            now = time.monotonic()
            pause = max(REDRAW_SECONDS, len(page) / REDRAW_BYTES_PER_SECOND, (now - began) / REDRAW_SHARE)
            self._due = now + pause

    def _page(self) -> str:
        reasoning = "".join(self._reasoning)
        return _html.answer_html(
            "".join(self._text),
            reasoning if len(reasoning) <= DRAFT_REASONING else "…" + reasoning[-DRAFT_REASONING:],
            self._calls,
            f"{self._counted()} …",
            thinking=not self._text,
        )

    def _counted(self) -> str:
        """About how many tokens came, and how fast: most servers send each in a piece of its own."""
        count = len(self._text) + len(self._reasoning)
        seconds = time.monotonic() - self._began
        return f"about {count:,} tokens" + (f" · {count / seconds:,.1f} tokens/s" if seconds >= 1 else "")

    def _show_last(self, page: str, text: str) -> None:
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._show({"text/html": page, "text/plain": _html.encodable(text)})

    def _show(self, bundle: dict[str, str]) -> None:
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext openai_compat.integrations.jupyter``: the cell magic ``%%chat``, and short interrupts."""
    magic = _ChatMagic(shell)
    shell.register_magic_function(magic.chat, "cell", "chat")
    _shorten_interrupts(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext openai_compat.integrations.jupyter``."""
    shell.magics_manager.magics["cell"].pop("chat", None)


class _ChatMagic:
    """``%%chat`` of one shell."""

    def __init__(self, shell: Any) -> None:
        from IPython.core.magic_arguments import MagicArgumentParser

        parser: Any = MagicArgumentParser(  # type: ignore[no-untyped-call]
            "%%chat", description="Ask a model what the rest of the cell says."
        )
        parser.add_argument("-m", "--model", help="the model's name")
        parser.add_argument("-s", "--system", metavar="TEXT", help="instructions that come before everything")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
        parser.add_argument("-t", "--temperature", type=float, metavar="NUMBER", help="0 is nearly always the same")
        parser.add_argument("--base-url", metavar="URL", help="where the server is")
        parser.add_argument("--provider", metavar="NAME", help="a known provider: openai, ollama, groq, ...")
        parser.add_argument("--to", metavar="NAME", help="the variable that gets the answer, a ChatResponse")
        parser.add_argument("-c", "--conversation", metavar="NAME", help="the Conversation to go on with, or to begin")
        parser.add_argument("--no-stream", action="store_true", help="show the answer in one piece")
        self._shell = shell
        self._parser = parser
        self.chat.__func__.__doc__ = parser.format_help() + _MAGIC_HELP  # type: ignore[attr-defined]

    def chat(self, line: str, cell: str) -> None:
        try:
            self._chat(self._parse(line), cell)
        except OpenAICompatError as error:
            # Nothing of the traceback is the user's own code.
            _shorten(error, f"{type(error).__name__}: {error}")
            raise

    def _parse(self, line: str) -> Any:
        from IPython.core.error import UsageError

        try:
            options = self._parser.parse_args(shlex.split(line))
        except ValueError as error:
            raise UsageError(f"%%chat {line}: {error}") from None
        for name in (options.to, options.conversation):
            if name is not None and not name.isidentifier():
                raise UsageError(f"%%chat: {name!r} is no name of a variable")
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
            fields["sink"] = NotebookSink()
        if options.conversation:
            conversation = self._conversation(options, fields)
            answer = conversation.say(prompt, **fields)
            namespace[options.conversation] = conversation
        else:
            answer = self._client(options).chat(prompt, **fields)
        if options.to:
            namespace[options.to] = answer
        if options.no_stream:
            _show(answer)

    def _conversation(self, options: Any, fields: dict[str, Any]) -> Conversation:
        """The one that the notebook has under this name, or a new one with the model and system message given."""
        from IPython.core.error import UsageError

        from ..conversation import Conversation

        found = self._shell.user_ns.get(options.conversation)
        if found is None:
            kept = {name: fields.pop(name) for name in ("model", "system") if name in fields}
            return Conversation(self._client(options).chat, **kept)
        if not isinstance(found, Conversation):
            raise UsageError(f"%%chat: {options.conversation} is a {type(found).__name__}, not a Conversation")
        if options.base_url or options.provider:
            raise UsageError(f"%%chat: {options.conversation} goes on with its own server")
        return found

    def _client(self, options: Any) -> Client:
        """For what the options name, else the notebook's own ``client``, else the one of the environment."""
        from ..client import Client

        if options.provider:
            return Client.for_provider(options.provider, base_url=options.base_url)
        if options.base_url:
            return Client(options.base_url, _key_for(options.base_url))
        own = self._shell.user_ns.get("client")
        return own if isinstance(own, Client) else Client.from_env()


_MAGIC_HELP = """
$name in the text is the value of that variable of the notebook, ${expression} of an expression, $$ a dollar sign.
The client is the notebook's own `client`, if there is one, else what the environment names (Client.from_env).
"""
_VARIABLE = re.compile(r"\$(?:(\$)|([^\W\d]\w*)|\{([^{}]+)\})")


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


def _key_for(base_url: str) -> str | None:
    """The key of the provider who is known to be there; for all others OPENAI_API_KEY, as is the custom."""
    from ..providers import provider_for_url
    from ..transport import Endpoint

    endpoint = Endpoint.parse(base_url)
    known = provider_for_url(endpoint.host, endpoint.port)
    return os.environ.get((known and known.key_variable) or "OPENAI_API_KEY")


def _show(answer: ChatResponse) -> None:
    if _notebook() is None:
        sys.stdout.write(answer.text + "\n")
        return
    from IPython.display import display

    page = {"text/html": _html.chat_html(answer), "text/plain": _html.encodable(answer.text)}
    display(page, raw=True)  # type: ignore[no-untyped-call]


def _notebook() -> Any:
    """IPython's shell where it can show HTML; None in a terminal, and where there is no IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    in_terminal = any(kind.__name__ == "TerminalInteractiveShell" for kind in type(shell).__mro__)
    return None if in_terminal else shell


def _load_markdown() -> None:
    """Load the Markdown parser now, so that it does not delay the first words."""
    try:
        _html.markdown_parser()
    except ImportError:
        raise ConfigurationError("notebooks need one more package: pip install 'openai-compat[jupyter]'") from None


def _shorten_interrupts(shell: Any) -> None:
    """Show an interrupt of the library as one line: with all its frames, IPython needs half a second longer."""
    if not shell.custom_exceptions:
        shell.set_custom_exc((KeyboardInterrupt,), _show_interrupt)


def _shorten(error: BaseException, line: str) -> None:
    """Have IPython show one line in place of the traceback."""
    error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]


def _show_interrupt(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    where: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(where))
    if any(module.startswith("openai_compat.") for module in modules):
        _shorten(error, "KeyboardInterrupt: the call was stopped")
    shell.showtraceback((kind, error, where), tb_offset=tb_offset)
