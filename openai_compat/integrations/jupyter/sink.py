"""A sink for notebooks: answers that appear while they come. In plain IPython and in a terminal it prints the text."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from ...display.answer import answer_html
from ...display.escape import encodable
from ...display.sanitize import markdown_parser
from ...display.summary import call_note
from ...errors import Cancelled, ConfigurationError
from ...sinks import PrintSink
from ...wire.response import ChatResponse, Choice, StreamEvent
from .shell import cell_of_other_threads, cell_of_result, current_cell, in_output_widget, ipython, redraws
from .streams import close_streams_of_failed_cells
from .tracebacks import shorten_tracebacks

if TYPE_CHECKING:
    from ...wire.messages import ToolCall

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
    Where the answer is also the result of its cell, it is not shown again. Several calls may share a sink. With
    ``submit`` the output is there at once; an answer that comes later is in it when the next cell has ended at the
    latest, also where a program runs the notebook.

    Outside a notebook, and inside an ``ipywidgets.Output``, it prints the text as it comes.

    Args:
        plain: print the text as it comes, in place of an output that is redrawn: for QtConsole and ``jupyter console``,
            which cannot redraw and cannot be told from a notebook. Spyder is known, and gets plain text by itself.

    Raises:
        ConfigurationError: in a notebook without the extra ``jupyter``.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self._shell = ipython()
        self._plain = plain or not redraws(self._shell)
        self._printer = PrintSink()
        self._printers: dict[str, PrintSink] = {}
        self._drafts: dict[str, _Draft] = {}
        self._expected: list[_Draft] = []
        self._late: list[_Draft] = []
        self._lock = threading.Lock()
        self._made_on = threading.current_thread()
        self._made_in = cell_of_other_threads(self._shell)
        if not self._plain:
            _load_markdown()
        if self._shell is not None:
            shorten_tracebacks(self._shell)
            close_streams_of_failed_cells(self._shell)
            _not_again.install(self._shell)

    def expect(self) -> None:
        """Show that an answer will come, in the cell that is running, on another thread."""
        if self._plain or in_output_widget(current_cell(self._shell)):
            return
        draft = _Draft(self._shell, None)
        with self._lock:
            self._expected.append(draft)
            self._watch_cells()
        draft.show_waiting()

    def emit(self, event: StreamEvent) -> None:
        """Show an event."""
        printer = self._printer if self._plain else self._printer_in_widget(event)
        if printer is not None:
            printer.emit(event)
            if event.response is not None:
                _not_again.shown(event.response, current_cell(self._shell))
        elif event.response is not None:
            draft = self._draft(event.call_id)
            draft.finish(event.response)
            _not_again.shown(event.response, draft.cell)
            self._forget(event.call_id)
        elif event.error is not None:
            if event.call_id in self._drafts or self._expected:
                why = "cancelled" if isinstance(event.error, Cancelled) else type(event.error).__name__
                self._draft(event.call_id).give_up(why)
                self._forget(event.call_id)
        elif event.data and not event.index:
            self._draft(event.call_id).take(event)

    def _printer_in_widget(self, event: StreamEvent) -> PrintSink | None:
        """What prints this call's answer, where that began inside a widget."""
        with self._lock:
            printer = self._printers.get(event.call_id)
            new = printer is None and event.data and not self._expected and event.call_id not in self._drafts
            if new and in_output_widget(current_cell(self._shell)):
                printer = self._printers[event.call_id] = PrintSink()
            if event.done or event.error is not None:
                self._printers.pop(event.call_id, None)
        return printer

    def _draft(self, call_id: str) -> _Draft:
        """The draft of this call's answer."""
        here = threading.current_thread()
        with self._lock:
            if call_id in self._drafts:
                return self._drafts[call_id]
            before = [draft for draft in self._drafts.values() if draft.thread is here]
            expected = [draft for draft in self._expected if draft.thread is not here]
            if expected:
                draft = expected[0]
                draft.thread = here
                self._expected.remove(draft)
            else:
                draft = _Draft(self._shell, None if here is self._made_on else self._made_in)
            self._drafts[call_id] = draft
            self._watch_cells()
        # A thread that begins another call has left the one before; should that go on after all, so does its draft.
        for old in before:
            old.give_up("stopped")
        return draft

    def _forget(self, call_id: str) -> None:
        with self._lock:
            draft = self._drafts.pop(call_id, None)
            if draft is not None and draft.outlived:
                self._late.append(draft)
            self._watch_cells()

    def _watch_cells(self) -> None:
        """Hear when a cell ends, for as long as that may matter."""
        with contextlib.suppress(ValueError):
            self._shell.events.unregister("post_execute", self._cell_ended)
        if self._drafts or self._expected or self._late:
            self._shell.events.register("post_execute", self._cell_ended)

    def _cell_ended(self) -> None:
        # Nobody tells a sink of an interrupt. A call on another thread goes on beyond its cell.
        here = threading.current_thread()
        with self._lock:
            left = [(key, it) for key, it in self._drafts.items() if it.thread is here or not it.thread.is_alive()]
        for call_id, draft in left:
            draft.give_up("stopped")
            self._forget(call_id)
        with self._lock:
            for draft in (*self._drafts.values(), *self._expected):
                draft.outlived = True
            late, self._late = self._late, []
            self._watch_cells()
        # Programs that run notebooks hear of a cell until it has ended, and only of that one.
        for draft in late:
            draft.show_again()


class _Draft:
    """An answer on its way, and the output that shows it.

    What may not be drawn yet is drawn by a timer, so that nothing stays out of sight while the model is silent.

    Args:
        shell: where it is shown.
        header: of the message that began the cell to show it in; None for the cell that IPython thinks is the one.
    """

    def __init__(self, shell: Any, header: dict[str, Any] | None) -> None:
        self.thread = threading.current_thread()
        self.cell = header["msg_id"] if header else current_cell(shell)
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
        self._last: dict[str, str] = {}
        self.outlived = False
        """Whether it was still on its way when its cell ended."""

    def show_waiting(self) -> None:
        """Show that something will come."""
        with self._lock:
            self._show({"text/html": answer_html("", note="…"), "text/plain": "…"})

    def show_again(self) -> None:
        """Show what was shown last, in the cell that is running now."""
        with self._lock:
            self._handle.update(self._last, raw=True)

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
        self._last = bundle
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
        if answer.choices is not self._choices or hasattr(answer, "parsed") or self._cell != cell_of_result():
            raise NotImplementedError


_not_again = _NotAgain()


def _load_markdown() -> None:
    """Load the Markdown parser now, so that it does not delay the first words."""
    try:
        markdown_parser()
    except ImportError:
        raise ConfigurationError("notebooks need one more package: pip install 'openai-compat[jupyter]'") from None
