"""What each provider wants or refuses, as data, and what is learnt from a refusal."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs

from ..errors import APIStatusError

_REFUSES = (
    r"unsupported|not supported|unrecogni[sz]ed|unknown|unexpected|extra (inputs|fields)|forbidden|not permitted"
    r"|not allowed|invalid argument"
)
_MAX_TOKENS = ("max_tokens", "max_completion_tokens")


@attrs.frozen(kw_only=True)
class Dialect:
    """How one server's reading of the format differs.

    Args:
        max_tokens: the name under which the limit on output tokens goes.
        stream_options: whether ``stream_options`` may be sent.
        thinking: what ``reasoning=True/False`` becomes: the chat template's own switch, or ``reasoning_effort``.
        leaves_out: body keys that this server refuses, and that are therefore not sent.
        key_header: the header that carries the key; ``Authorization`` has it as a bearer token.
    """

    max_tokens: str = "max_tokens"
    stream_options: bool = True
    thinking: Literal["chat_template_kwargs", "reasoning_effort"] = "chat_template_kwargs"
    leaves_out: frozenset[str] = frozenset()
    key_header: str = "Authorization"

    def adapt(self, body: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The body as this server takes it, and the names of what was left out."""
        adapted = dict(body)
        for name in _MAX_TOKENS:
            if name in adapted and name != self.max_tokens and self.max_tokens not in adapted:
                adapted[self.max_tokens] = adapted.pop(name)
        left_out = self.leaves_out & adapted.keys()
        if self.thinking == "reasoning_effort" and "chat_template_kwargs" in adapted:
            wishes = dict(adapted.pop("chat_template_kwargs") or {})
            thinks = wishes.pop("enable_thinking", None)
            if thinks is not None:
                adapted.setdefault("reasoning_effort", "medium" if thinks else "none")
            if wishes:
                left_out |= {"chat_template_kwargs"}
        if not self.stream_options:
            adapted.pop("stream_options", None)
        for name in left_out:
            adapted.pop(name, None)
        return adapted, tuple(sorted(left_out))

    def learn(self, error: APIStatusError, body: dict[str, Any]) -> Dialect | None:
        """The dialect that a refusal of ``body`` teaches, or None where it teaches nothing.

        Only what can be said otherwise without loss is learnt: the name of ``max_tokens``, and ``stream_options``.
        """
        if error.status_code not in (400, 422):
            return None
        said = f"{error.param} {error.type} {error.code} {error}"
        if not re.search(_REFUSES, said, re.IGNORECASE):
            return None
        if "stream_options" in body and ("stream_options" in said or "include_usage" in said):
            return attrs.evolve(self, stream_options=False)
        other = _MAX_TOKENS[1 - _MAX_TOKENS.index(self.max_tokens)]
        if self.max_tokens in body and re.search(rf"\b{self.max_tokens}\b", said):
            return attrs.evolve(self, max_tokens=other)
        return None


GENERIC = Dialect()
"""Local servers, and every server that is not known."""
OPENAI = Dialect(
    max_tokens="max_completion_tokens",
    thinking="reasoning_effort",
    leaves_out=frozenset({"top_k", "min_p", "repeat_penalty"}),
)
AZURE = attrs.evolve(OPENAI, key_header="api-key")
CLOUD = Dialect(thinking="reasoning_effort", leaves_out=frozenset({"top_k", "min_p", "repeat_penalty"}))
"""Cloud services that take OpenAI's fields and refuse those of local servers."""
OPEN_MODELS = Dialect(thinking="reasoning_effort")
"""Cloud services for open models, which take ``top_k``."""


_LIMIT = r"(?:larger than|more than|at most|up to|exceeds?|(?:maximum|max|limit)(?: [a-z]+){0,3})\D{0,12}(\d+)"


def batch_limit(error: APIStatusError, sent: int) -> int | None:
    """How many inputs a server takes at once, where its refusal of ``sent`` of them says so."""
    if error.status_code not in (400, 413, 422) or not re.search(r"batch|input|array", str(error), re.IGNORECASE):
        return None
    limits = [int(found) for found in re.findall(_LIMIT, str(error), re.IGNORECASE)]
    return min((limit for limit in limits if 0 < limit < sent), default=None)
