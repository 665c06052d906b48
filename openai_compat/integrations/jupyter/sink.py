"""Jupyter: answers that appear in a notebook while they come, and the cell magic ``%%chat``.

::

    client.chat("Why is the sky blue?", sink=NotebookSink())

    %load_ext openai_compat.integrations.jupyter

Needs ``pip install 'openai-compat[jupyter]'``. In plain IPython and in a terminal the same code prints the text.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...display.answer import answer_html
from ...display.escape import encodable
from ...display.sanitize import markdown_parser
from ...display.summary import call_note
from ...errors import Cancelled, ConfigurationError, OpenAICompatError
from ...sinks import PrintSink
from ...wire.response import ChatResponse, Choice, StreamEvent

if TYPE_CHECKING:
    from ...client import Client
    from ...conversation import Conversation
    from ...wire.messages import ToolCall

__all__ = ["NotebookSink", "load_ipython_extension", "unload_ipython_extension"]

REDRAW_SECONDS = 0.1
"""Least time between two redraws."""
REDRAW_BYTES_PER_SECOND = 100_000
"""Most that redraws send: the longer an answer, the rarer they are, and all of them together stay linear in time."""
REDRAW_SHARE = 0.1
"""Most of the time that goes into drawing."""
DRAFT_REASONING = 2000
"""Characters of the reasoning that are shown before the answer is complete: the last ones."""


class NotebookSink:
    """Shows each answer while it comes: one output, redrawn in place as Markdown, with its reasoning folded.

    A line below it counts the tokens. The interrupt button ends the call: the output keeps what came, marked as
    stopped. What the model says can run no script and load no image. Of several choices (``n=2``) the first is shown.
    Where the answer is also the result of its cell, it is not shown again. Several calls may share a sink.

    Outside a notebook, it prints the text as it comes.

    Args:
        plain: print the text as it comes, in place of an output that is redrawn: for QtConsole and ``jupyter console``,
            which cannot redraw and cannot be told from a notebook. Spyder is known, and gets plain text by itself.

    Raises:
        ConfigurationError: in a notebook without the extra ``jupyter``.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self._shell = _ipython()
        self._plain = plain or not _redraws(self._shell)
        self._printer = PrintSink()
        self._drafts: dict[str, _Draft] = {}
        self._lock = threading.Lock()
        self._made_on = threading.current_thread()
        self._made_in = _cell_of_other_threads(self._shell)
        if not self._plain:
            _load_markdown()
        if self._shell is not None:
            _shorten_tracebacks(self._shell)
            _not_again.install(self._shell)

    def emit(self, event: StreamEvent) -> None:
        """Show an event."""
        if self._plain:
            self._printer.emit(event)
            if event.response is not None:
                _not_again.shown(event.response, _cell(self._shell))
        elif event.response is not None:
            draft = self._draft(event.call_id)
            draft.finish(event.response)
            _not_again.shown(event.response, draft.cell)
            self._forget(event.call_id)
        elif event.error is not None:
            if event.call_id in self._drafts:
                why = "cancelled" if isinstance(event.error, Cancelled) else type(event.error).__name__
                self._draft(event.call_id).give_up(why)
                self._forget(event.call_id)
        elif event.data and not event.index:
            self._draft(event.call_id).take(event)

    def _draft(self, call_id: str) -> _Draft:
        """The draft of this call's answer."""
        here = threading.current_thread()
        with self._lock:
            if call_id in self._drafts:
                return self._drafts[call_id]
            before = [draft for draft in self._drafts.values() if draft.thread is here]
            draft = _Draft(self._shell, None if here is self._made_on else self._made_in)
            self._drafts[call_id] = draft
            self._shell.events.register("post_execute", self._cell_ended)
        # A thread that begins another call has left the one before; should that go on after all, so does its draft.
        for old in before:
            old.give_up("stopped")
        return draft

    def _forget(self, call_id: str) -> None:
        with self._lock:
            self._drafts.pop(call_id, None)
            if not self._drafts:
                with contextlib.suppress(ValueError):
                    self._shell.events.unregister("post_execute", self._cell_ended)

    def _cell_ended(self) -> None:
        # Nobody tells a sink of an interrupt. A call on another thread goes on beyond its cell.
        here = threading.current_thread()
        with self._lock:
            left = [(key, it) for key, it in self._drafts.items() if it.thread is here or not it.thread.is_alive()]
        for call_id, draft in left:
            draft.give_up("stopped")
            self._forget(call_id)


class _Draft:
    """An answer on its way, and the output that shows it.

    What may not be drawn yet is drawn by a timer, so that nothing stays out of sight while the model is silent.

    Args:
        shell: where it is shown.
        header: of the message that began the cell to show it in; None for the cell that IPython thinks is the one.
    """

    def __init__(self, shell: Any, header: dict[str, Any] | None) -> None:
        self.thread = threading.current_thread()
        self.cell = header["msg_id"] if header else _cell(shell)
        self._publisher = shell.display_pub
        self._header = header
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._lock = threading.Lock()
        self._drawing = False
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
            if self._ended:
                self._ended = self._drawing = False
            if self._drawing:
                return
            self._drawing = True
            wait = self._due - time.monotonic()
            if wait > 0:
                self._draw_in(wait)
                return
        self._draw()

    def finish(self, answer: ChatResponse) -> None:
        """Show the whole answer."""
        text = answer.text or answer.refusal
        note = call_note(answer) if answer.usage else f"{call_note(answer)} · {self._counted()}"
        self._show_last(answer_html(text, answer.reasoning, answer.tool_calls, note), text)

    def give_up(self, why: str) -> None:
        """Show what came, and why no more will; nothing new where that was done before."""
        if self._ended:
            return
        text = "".join(self._text)
        note = f"{why} · {self._counted()}"
        self._show_last(answer_html(text, "".join(self._reasoning), self._calls, note), text)

    def _draw_in(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._draw)
        self._timer.daemon = True
        self._timer.start()

    def _draw(self) -> None:
        """Draw what came. Meanwhile more may come, so that the lock is not held; one drawing at a time is enough."""
        with self._lock:
            began = time.monotonic()
            drawn = self._pieces
            text, reasoning, calls = "".join(self._text), "".join(self._reasoning), list(self._calls)
            note = f"{self._counted()} …"
        if len(reasoning) > DRAFT_REASONING:
            reasoning = "…" + reasoning[-DRAFT_REASONING:]
        page = answer_html(text, reasoning, calls, note, thinking=not text)
        with self._lock:
            if self._ended:
                return
            self._show({"text/html": page})
            now = time.monotonic()
            pause = max(REDRAW_SECONDS + len(page) / REDRAW_BYTES_PER_SECOND, (now - began) / REDRAW_SHARE)
            self._due = now + pause
            self._drawing = self._pieces > drawn
            if self._drawing:
                self._draw_in(pause)

    @property
    def _pieces(self) -> int:
        return len(self._text) + len(self._reasoning) + len(self._calls)

    def _counted(self) -> str:
        """About how many tokens came, and how fast: most servers send each in a piece of its own."""
        count = len(self._text) + len(self._reasoning)
        seconds = time.monotonic() - self._began
        tokens = f"about {count:,} token{'' if count == 1 else 's'}"
        return tokens + (f" · {count / seconds:,.1f} tokens/s" if seconds >= 1 else "")

    def _show_last(self, page: str, text: str) -> None:
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._show({"text/html": page, "text/plain": encodable(text)})

    def _show(self, bundle: dict[str, str]) -> None:
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
            return
        from IPython.display import DisplayHandle

        # Kept before it is shown: an interrupt may come between the two.
        self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
        if self._header is None:
            self._handle.display(bundle, raw=True)
            return
        self._publisher.register_hook(self._move)
        try:
            self._handle.display(bundle, raw=True)
        finally:
            self._publisher.unregister_hook(self._move)

    def _move(self, message: dict[str, Any]) -> dict[str, Any]:
        """IPython's hook for messages of this thread: send it to the cell that is meant."""
        return {**message, "parent_header": self._header}


class _NotAgain:
    """Keeps the answer that a sink showed last from being shown once more as the result of the same cell."""

    def __init__(self) -> None:
        self._choices: tuple[Choice, ...] = ()
        self._cell: str | None = None

    def install(self, shell: Any) -> None:
        shell.display_formatter.ipython_display_formatter.for_type(ChatResponse, self._display)

    def shown(self, answer: ChatResponse, cell: str | None) -> None:
        self._choices, self._cell = answer.choices, cell

    def _display(self, answer: ChatResponse) -> None:
        """Show nothing, or leave it to the other formatters, which is what this exception means to IPython."""
        # The value of a type is more than its text. What a tool loop returns has the choices of its last round.
        if answer.choices is not self._choices or hasattr(answer, "parsed") or self._cell != _cell_of_result():
            raise NotImplementedError


_not_again = _NotAgain()


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext openai_compat.integrations.jupyter``: the cell magic ``%%chat``, and short tracebacks."""
    from IPython.core.magic import no_var_expand

    parser = _options()
    help_ = parser.format_help() + _MAGIC_HELP

    def chat(line: str, cell: str) -> None:
        _Chat(shell, parser, help_).run(line, cell)

    chat.__doc__ = help_
    shell.register_magic_function(no_var_expand(chat), "cell", "chat")
    _shorten_tracebacks(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext openai_compat.integrations.jupyter``."""
    shell.magics_manager.magics["cell"].pop("chat", None)
    if shell.custom_exceptions is _SHORT:
        shell.set_custom_exc((), None)


def _options() -> Any:
    """The parser of the options of ``%%chat``."""
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
    parser.add_argument("--plain", action="store_true", help="print the text as it comes, where nothing can be redrawn")
    parser.add_argument("--no-stream", action="store_true", help="show the answer in one piece")
    parser.add_argument("-h", "--help", action="store_true", help="say this, and ask nothing")
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
            _shorten(error, f"{type(error).__name__}: {error}")
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
            _show(answer)

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
            raise UsageError(f"%%chat: {options.conversation} goes on with its own server")
        return found

    def _client(self, options: Any) -> Client:
        """For what the options name, else the notebook's own ``client``, else the one of the environment."""
        from ...client import Client

        if options.provider:
            return Client.for_provider(options.provider, base_url=options.base_url)
        if options.base_url:
            return Client(options.base_url, _key_for(options.base_url))
        own = self._shell.user_ns.get("client")
        return own if isinstance(own, Client) else Client.from_env()


_MAGIC_HELP = """
$name and $name.attribute, in the text and in options, are values of the notebook, ${expression} that of an expression,
$$ a dollar sign.
The client is the notebook's own `client`, if there is one, else what the environment names (Client.from_env).
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


def _key_for(base_url: str) -> str | None:
    """The key of the provider who is known to be there; for all others OPENAI_API_KEY, as is the custom."""
    from ...providers import provider_for_url
    from ...transport import Endpoint

    endpoint = Endpoint.parse(base_url)
    known = provider_for_url(endpoint.host, endpoint.port)
    return os.environ.get((known and known.key_variable) or "OPENAI_API_KEY")


def _show(answer: ChatResponse) -> None:
    if not _redraws(_ipython()):
        sys.stdout.write(answer.text + "\n")
        return
    from IPython.display import display

    from ...display.html import to_html

    page = {"text/html": to_html(answer), "text/plain": encodable(answer.text)}
    display(page, raw=True)  # type: ignore[no-untyped-call]


def _ipython() -> Any:
    """IPython's shell; None where there is none."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _redraws(shell: Any) -> bool:
    """Whether the shell's frontend shows HTML and changes outputs, as far as the shell can tell."""
    kinds = {kind.__name__ for kind in type(shell).__mro__}
    return shell is not None and not kinds & {"TerminalInteractiveShell", "SpyderShell"}


def _cell(shell: Any) -> str | None:
    """Which cell's outputs this thread makes; None where nothing tells, as in a terminal."""
    header = getattr(getattr(shell, "display_pub", None), "parent_header", None) or {}
    return header.get("msg_id")


def _cell_of_result() -> str:
    """Which cell's result is being shown right now; an empty string where it is not a result."""
    result = getattr(_ipython().displayhook, "msg", None) or {"parent_header": {}}
    return str(result["parent_header"].get("msg_id", ""))


def _cell_of_other_threads(shell: Any) -> Any:
    """The header of this cell's message, for use on other threads; None where ipykernel (7) passes it on by itself."""
    publisher = getattr(shell, "display_pub", None)
    return None if hasattr(publisher, "set_thread_parent") else getattr(publisher, "parent_header", None) or None


def _load_markdown() -> None:
    """Load the Markdown parser now, so that it does not delay the first words."""
    try:
        markdown_parser()
    except ImportError:
        raise ConfigurationError("notebooks need one more package: pip install 'openai-compat[jupyter]'") from None


_SHORT = (KeyboardInterrupt, OpenAICompatError)
_LIBRARIES = {"openai_compat", "requests", "urllib3", "http", "ssl", "socket", "concurrent"}


def _shorten_tracebacks(shell: Any) -> None:
    """Show what the library raises without the library's own frames, unless somebody handles exceptions already."""
    if not shell.custom_exceptions:
        shell.set_custom_exc(_SHORT, _show_short)


def _shorten(error: BaseException, line: str) -> None:
    """Have IPython show one line in place of the traceback."""
    error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]


def _show_short(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    where: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    """IPython's handler of the exceptions in ``_SHORT``."""
    if isinstance(error, KeyboardInterrupt):
        if any(_library(frame.f_globals) == "openai_compat" for frame, _ in traceback.walk_tb(where)):
            # With all frames, IPython needs half a second longer.
            _shorten(error, "KeyboardInterrupt: the call was stopped")
        shell.showtraceback((kind, error, where), tb_offset=tb_offset)
        return
    chained = error.__cause__, error.__context__, error.__suppress_context__
    error.__cause__ = error.__context__ = None
    try:
        shell.showtraceback((kind, error, _own_frames(where)), tb_offset=tb_offset)
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = chained
        # For %tb and %debug, which are asked for.
        sys.last_traceback = where


def _own_frames(where: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of libraries."""
    if where is None:
        return None
    rest = _own_frames(where.tb_next)
    if _library(where.tb_frame.f_globals) in _LIBRARIES:
        return rest
    return TracebackType(rest, where.tb_frame, where.tb_lasti, where.tb_lineno)


def _library(names: dict[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
