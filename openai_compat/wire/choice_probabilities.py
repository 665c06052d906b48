"""How likely each choice was, by the log probabilities of an answer's tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_BLANKS = b" \t\r\n"
_LEAST = -1000
"""A logarithm of what is 0 as a float; an integer of JSON may have more digits than a float."""


class _Token(NamedTuple):
    said: bytes
    probability: float


class _Place(NamedTuple):
    """Where a token stands: the one that was taken, and the likeliest there, itself among them."""

    taken: _Token
    likely: tuple[_Token, ...]


def choice_probabilities(
    choices: Sequence[Any], chosen: Any, logprobs: Mapping[str, Any] | None
) -> dict[Any, float] | None:
    """The probability of each choice, all together 1; None where the server gave no log probabilities.

    At each token of the answer, every likely token that begins or ends exactly one choice gives its probability to
    that one: different tokens that begin the same choice are added up. What begins several is followed where it was
    taken; where it was not, nothing is known of what would have come after it, and the choices share it in the
    proportion of what else they have, or evenly. Tokens that begin no choice are left out, and the rest is scaled up
    to 1: these are the probabilities given that the answer is one of the choices. What is not among the
    ``top_logprobs`` counts as 0.

    Args:
        choices: what the answer could be, as JSON values.
        chosen: which it is.
        logprobs: the ``logprobs`` of its choice in the reply.
    """
    places = list(_places(logprobs))
    said = b"".join(place.taken.said for place in places)
    found = _value_in(said, chosen)
    if found is None:
        return None
    start, encode = found
    forms = [encode(choice) for choice in choices]
    own: list[float] = [0.0] * len(forms)
    shared: list[tuple[list[int], float]] = []
    reached, mass, open_ = 0, 1.0, list(range(len(forms)))
    for place in places:
        begun, reached = reached, reached + len(place.taken.said)
        if reached <= start:
            continue
        head = said[start:begun].lstrip(_BLANKS)
        # A token may hold the last of what stands before the value.
        before = said[begun:start].strip(_BLANKS)
        after: list[int] = []
        for token in place.likely:
            rest = head + token.said if head else token.said.lstrip(_BLANKS)
            if not rest.startswith(before):
                continue
            rest = rest if head else rest[len(before) :].lstrip(_BLANKS)
            fitting = [at for at in open_ if _fits(rest, forms[at])] if rest else []
            if token.said == place.taken.said:
                after = fitting if rest else open_
                if len(after) != 1:
                    continue
            if len(fitting) == 1:
                own[fitting[0]] += mass * token.probability
            elif fitting and token.said != place.taken.said:
                shared.append((fitting, mass * token.probability))
        if len(after) <= 1:
            break
        mass *= place.taken.probability
        open_ = after
    else:
        # The text ended where it could have gone on: its end is no token that is told.
        if chosen in choices:
            own[list(choices).index(chosen)] += mass
    return _scaled(choices, own, shared)


def _scaled(choices: Sequence[Any], own: list[float], shared: list[tuple[list[int], float]]) -> dict[Any, float] | None:
    total = list(own)
    for fitting, mass in shared:
        known = sum(own[at] for at in fitting)
        for at in fitting:
            total[at] += mass * (own[at] / known if known else 1 / len(fitting))
    whole = sum(total)
    if not whole > 0:
        return None
    return {choice: mass / whole for choice, mass in zip(choices, total, strict=True)}


def _fits(rest: bytes, form: bytes) -> bool:
    """Whether a text may be, or become, a choice."""
    if form.startswith(rest):
        return True
    if not rest.startswith(form):
        return False
    # Behind the choice stands what is no part of a longer word: "no." is "no", "nothing" is not.
    return not rest[len(form) :][:1].isalnum() or form.endswith(b'"')


def _places(logprobs: Mapping[str, Any] | None) -> Iterator[_Place]:
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    for entry in content if isinstance(content, list) else ():
        taken = _token(entry)
        if taken is None:
            return
        others = entry.get("top_logprobs")
        likely = [token for other in (others if isinstance(others, list) else ()) if (token := _token(other))]
        if all(token.said != taken.said for token in likely):
            likely.append(taken)
        yield _Place(taken, tuple(likely))


def _token(entry: Any) -> _Token | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return None
    logprob, listed = entry.get("logprob"), entry.get("bytes")
    if not isinstance(logprob, (int, float)) or isinstance(logprob, bool) or logprob != logprob:
        return None
    try:
        # Of a character in several tokens, each has a part, which only ``bytes`` tells.
        said = bytes(listed) if isinstance(listed, list) else entry["token"].encode("utf-8", "replace")
    except (TypeError, ValueError):
        said = entry["token"].encode("utf-8", "replace")
    return _Token(said, math.exp(max(min(logprob, 0), _LEAST)))


def _value_in(said: bytes, chosen: Any) -> tuple[int, Any] | None:
    """Where the value stands in a text, the last time that it does, and how a choice would be written there."""
    for ascii_only in (False, True):

        def as_json(value: Any, ascii_only: bool = ascii_only) -> bytes:
            return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")

        if (start := _last(rb'"value"\s*:\s*()' + re.escape(as_json(chosen)), said)) is not None:
            return start, as_json
        if said.strip(_BLANKS) == as_json(chosen):
            return len(said) - len(said.lstrip(_BLANKS)), as_json
    start = _last(rb"(?<!\w)()" + re.escape(_bare(chosen)) + rb"(?!\w)", said)
    return None if start is None else (start, _bare)


def _bare(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")


def _last(pattern: bytes, said: bytes) -> int | None:
    starts = [match.start(1) for match in re.finditer(pattern, said)]
    return starts[-1] if starts else None
