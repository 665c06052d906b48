"""Secrets: values that do not show themselves, and texts with every credential masked."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

__all__ = ["MASK", "MAX_BODY", "Secret", "SecretBytes", "redact_error_body"]

MASK = "***"


class Secret(str):
    """A secret in a variable: error pages and reports that show the variables of a traceback do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class SecretBytes(bytes):
    """The same for bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK.encode())


MAX_BODY = 2000
"""Characters of an error body that are kept."""

# What looks like a credential whoever it belongs to: vendor-prefixed keys, bearer tokens, JWTs, key fields.
_CREDENTIALS = r"""
    (?P<keep>\b(?:bearer|basic)\s+ | \b(?:x-)?(?:api[-_]?key|access[-_]?token|authorization|token|secret|password)
        ["']?\s*[:=]\s*["']?(?:(?:bearer|basic)\s+)?)
        (?P<value>[^\s"',;&}<>]{6,})
    | \b(?:sk|pk|rk|gsk|xai|hf|ghp|glpat|pplx|nvapi|csk|fw|r8|tgp|key|AIza)[-_][A-Za-z0-9_\-*.•…]{6,}
    | \bAIza[A-Za-z0-9_\-]{10,}
    | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-.]+
    """
_PART = 8
"""Characters of the caller's own key that, seen together, count as showing it."""


def _mask_match(match: re.Match[str]) -> str:
    return (match["keep"] or "") + MASK


_URL = "%(?P<url>[0-9A-Fa-f]{2})"
_JSON = r"""\\u(?P<json>[0-9A-Fa-f]{4})|\\(?P<itself>["'\\/])"""
_SPELLINGS = (_URL, _JSON, f"{_URL}|{_JSON}")
"""One character as a URL spells it, as JSON does, and as either: a key may hold what looks like the other's."""


def _mask_secret(text: str, secret: str) -> str:
    """Mask ``secret`` in ``text``: every run of eight or more of its characters, however they are spelled."""
    if len(secret) < 4:
        return text
    encoded = binascii.b2a_base64(secret.encode("utf-8", "replace"), newline=False).decode().rstrip("=")
    for form in (secret, encoded):
        if len(form) < _PART:
            # A short key is often an ordinary word: only the whole of it, standing alone, is masked.
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", MASK, text)
            continue
        windows = {form[i : i + _PART] for i in range(len(form) - _PART + 1)}
        text = _mask_runs(text, windows, [(at, at + 1, char) for at, char in enumerate(text)])
        for spelling in _SPELLINGS:
            text = _mask_runs(text, windows, _spelled(text, spelling))
            if " " in form:
                text = _mask_runs(text, windows, _spelled(text, spelling, plus=" "))
    return text


def _spelled(text: str, spelling: str, *, plus: str = "+") -> list[tuple[int, int, str]]:
    """The characters that a text spells, with where each begins and ends."""
    spelled: list[tuple[int, int, str]] = []
    at = 0
    for match in re.finditer(spelling, text):
        spelled += [(i, i + 1, plus if text[i] == "+" else text[i]) for i in range(at, match.start())]
        named = match.groupdict()
        code = named.get("url") or named.get("json")
        spelled.append((*match.span(), chr(int(code, 16)) if code else match["itself"]))
        at = match.end()
    spelled += [(i, i + 1, plus if text[i] == "+" else text[i]) for i in range(at, len(text))]
    return spelled


def _mask_runs(text: str, windows: set[str], spelled: list[tuple[int, int, str]]) -> str:
    read = "".join(char for _, _, char in spelled)
    out: list[str] = []
    shown = at = 0
    while at <= len(read) - _PART:
        if read[at : at + _PART] not in windows:
            at += 1
            continue
        out.append(text[shown : spelled[at][0]] + MASK)
        while read[at : at + _PART] in windows:
            at += 1
        at += _PART - 1
        shown = spelled[at - 1][1]
    return "".join(out) + text[shown:]


def redact_error_body(body: str | bytes, *, secrets: Iterable[str] = (), limit: int = MAX_BODY) -> str:
    """What of an error body may be shown: credentials masked, length bounded.

    Args:
        body: the text as the server sent it.
        secrets: the caller's own keys; masked verbatim, URL-quoted, base64-encoded, and in part.
        limit: characters to keep; the rest is counted, not shown.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    # Cut with a margin first, so that a huge body costs no more than a small one, and no key is halved at the edge.
    cut = text[: limit + 4096]
    for secret in secrets:
        cut = _mask_secret(cut, secret)
    # Compiled at the first error, not at import.
    cut = re.sub(_CREDENTIALS, _mask_match, cut, flags=re.IGNORECASE | re.VERBOSE)
    if len(text) > limit:
        return f"{cut[:limit]}… ({len(text)} characters in all)"
    return cut
