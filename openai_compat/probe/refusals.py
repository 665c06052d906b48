"""Questions about how a server refuses: an unknown model, a value that cannot be, a wrong key."""

from __future__ import annotations

from .asking import Answer
from .question import Context, Question

WRONG_KEY = "wrong-key-of-a-probe"


def ask_model(context: Context) -> None:
    """What is said of a model that does not exist."""
    answer = context.asker.post("/chat/completions", {**context.body("Say hello."), "model": "no-such-model"})
    _found(context, "error_unknown_model", answer, "answers under any name")


def ask_value(context: Context) -> None:
    """What is said of a value of the wrong type."""
    answer = context.chat("Say hello.", temperature="hot")
    _found(context, "error_bad_value", answer, "answers all the same")


def ask_key(context: Context) -> None:
    """What is said of a wrong key."""
    name = context.dialect.key_header
    key = f"Bearer {WRONG_KEY}" if name == "Authorization" else WRONG_KEY
    answer = context.asker.post("/chat/completions", context.body("Say hello."), headers={name: key})
    _found(context, "error_wrong_key", answer, "any key is taken")


def _found(context: Context, name: str, answer: Answer, taken: str) -> None:
    if answer.ok:
        context.found(name, "ignored", taken)
        return
    error = answer.error
    told = [f"{field} {value}" for field in ("code", "type", "param") if (value := getattr(error, field, None))]
    context.found(name, "yes", "; ".join([answer.refusal, *told]))


_GROUP = "errors"
QUESTIONS = (
    Question(names=("error_unknown_model",), ask=ask_model, requests=1, group=_GROUP, needs="chat"),
    Question(names=("error_bad_value",), ask=ask_value, requests=1, group=_GROUP, needs="chat"),
    Question(names=("error_wrong_key",), ask=ask_key, requests=1, group=_GROUP, needs="chat"),
)
