"""Questions about speed: one answer alone, and four at once."""

from __future__ import annotations

import threading

from .._json import as_int
from .asking import Answer, Unanswered
from .framing import Stream, read_stream
from .question import Context, Question

AT_ONCE = 4
_TOKENS = 48
_PROMPT = "Count from 1 to 100, in words."


def ask_speed(context: Context) -> None:
    """How soon an answer begins, and how fast it goes on, alone and beside others."""
    answer, stream = _ask(context)
    if not answer.ok or not stream.events:
        context.found("speed", "no", answer.refusal or "no stream")
        context.found("speed_parallel", "skipped", "no stream")
        return
    tokens = _tokens(stream)
    alone = tokens / answer.seconds if answer.seconds else 0.0
    first = "" if stream.first_text is None else f"first token after {stream.first_text:.2f} s, "
    context.found("speed", "yes", f"{first}{alone:.0f} tokens/s")
    answers = _at_once(context)
    if not answers:
        context.found("speed_parallel", "failed", f"{AT_ONCE} at once: none was answered")
        return
    slowest = max(answer.seconds for answer, _ in answers)
    together = sum(_tokens(stream) for _, stream in answers) / slowest if slowest else 0.0
    told = f"{AT_ONCE} at once: {together:.0f} tokens/s together"
    if len(answers) < AT_ONCE:
        told += f", {AT_ONCE - len(answers)} not answered"
    context.found("speed_parallel", "yes" if len(answers) == AT_ONCE else "failed", told)


def _ask(context: Context) -> tuple[Answer, Stream]:
    answer = context.chat(_PROMPT, tokens=_TOKENS, **context.streamed)
    stream = read_stream(answer.pieces)
    context.asker.count(stream.usage or {})
    return answer, stream


def _tokens(stream: Stream) -> int:
    counted = as_int((stream.usage or {}).get("completion_tokens"))
    return stream.deltas if counted is None else counted


def _at_once(context: Context) -> list[tuple[Answer, Stream]]:
    answers: list[tuple[Answer, Stream]] = []

    def ask() -> None:
        try:
            answer = _ask(context)
        except Unanswered:
            return  # how many were answered is told
        if answer[0].ok:
            answers.append(answer)

    threads = [threading.Thread(target=ask, name=f"probe-{number}", daemon=True) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


QUESTIONS = (
    Question(names=("speed", "speed_parallel"), ask=ask_speed, requests=1 + AT_ONCE, group="speed", needs="stream"),
)
