"""Secrets: values that do not show themselves, and texts with every credential masked."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, SupportsIndex

__all__ = [
    "MASK",
    "MAX_BODY",
    "Secret",
    "SecretBytes",
    "mask_json",
    "mask_secrets",
    "mask_whole",
    "masked",
    "redact_error_body",
]

MASK = "***"


class Secret(str):
    """A secret in a variable: error pages and reports that show the variables of a traceback do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)

    def __getitem__(self, index: SupportsIndex | slice) -> Secret:
        # Reports shorten a long string before they ask for its repr.
        return Secret(super().__getitem__(index))


class SecretBytes(bytes):
    """The same for bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK.encode())


def masked(value: Any) -> Any:
    """The same value with each text in it a secret; of one like pydantic's ``SecretStr``, what it holds."""
    if hasattr(value, "get_secret_value") and not isinstance(value, type):
        value = value.get_secret_value()
    if isinstance(value, str):
        return value if isinstance(value, Secret) else Secret(value)
    if isinstance(value, bytes):
        return SecretBytes(value)
    if isinstance(value, Mapping):
        return {name: masked(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(masked, value))
    return value


MAX_BODY = 2000
"""Characters of an error body that are kept."""

_VALUE = r"""[^\s"',;&}<>\\]"""
# How far is looked ahead is bounded, or a text of many beginnings would take time that grows with its square.
_TOKEN = rf"""(?={_VALUE}{{0,256}}\d)(?={_VALUE}{{0,256}}[A-Za-z*])"""
"""What follows has a digit in it: a word in its place is the server's own, as in "token: expired"."""
# What looks like a credential whoever it belongs to: vendor-prefixed keys, bearer tokens, JWTs, key fields.
_CREDENTIALS = rf"""
    (?P<keep>\b(?:x-)?(?:api[-_]?key|access[-_]?token|authorization|token|secret|password)
        \\*["']?\s*[:=]\s*\\*["']?(?:(?:bearer|basic)\s+)?)
        {_TOKEN}(?P<value>{_VALUE}{{6,}})
    | (?P<scheme>\b(?:bearer|basic)\s+)(?:{_TOKEN}|(?=\w*(?-i:[a-z][A-Z]{{2}})))[\w+/.~-]{{12,}}=*
    | \bsk[-_](?!learn|image)[\w\-*.•…]{{6,}}
    | \b(?:pk|rk|gsk|xai|hf|ghp|glpat|pplx|nvapi|csk|tgp|AIza)[-_]
        (?=[\w-]{{0,256}}[\d*•…]|[A-Za-z]{{10}})[\w\-*.•…]{{6,}}
    | \b(?:fw|r8|key)[-_](?=[\w-]{{0,256}}[\d*•…])[\w\-*.•…]{{16,}}
    | \bAIza[A-Za-z0-9_\-]{{10,}}
    | \beyJ(?:[A-Za-z0-9_\-]{{8,1024}}+\.|[A-Za-z0-9_\-]{{1024}})[A-Za-z0-9_\-.]+
    """
_PART = 8
"""Characters of the caller's own key that, seen together, count as showing it."""
_NO_SECRETS = {
    *("ollama", "lm-studio", "lmstudio", "llama.cpp", "empty", "none", "null", "dummy", "test", "local", "unused"),
    *("not-needed", "not_needed", "no-key", "no-key-required", "sk-no-key-required", "your-api-key"),
    *("api-key", "api_key", "key", "token", "secret", "password", "true", "false"),
}
"""What is given in place of a key where none is needed, and other words that any message may have."""

_URL = "%(?P<url>[0-9A-Fa-f]{2})"
_JSON = r"""\\u(?P<json>[0-9A-Fa-f]{4})|\\(?P<itself>["'\\/])"""
_SPELLINGS = (("%", _URL), ("\\", _JSON), ("%\\", f"{_URL}|{_JSON}"))
"""One character as a URL spells it, as JSON does, and as either: a key may hold what looks like the other's."""


def _mask_match(match: re.Match[str]) -> str:
    return (match["keep"] or match["scheme"] or "") + MASK


class _Known(NamedTuple):
    """What shows a secret: runs of eight characters in some encoding, and words of fewer."""

    runs: frozenset[str]
    words: str
    spaced: bool


@lru_cache(maxsize=4)
def _known(secrets: tuple[str, ...]) -> _Known:
    each = [_runs_and_words(secret) for secret in secrets if len(secret) >= 4 and secret.lower() not in _NO_SECRETS]
    # A short key is often an ordinary word: only the whole of it, standing alone, is masked.
    words = "|".join(re.escape(word) for _, short in each for word in short)
    return _Known(
        frozenset[str]().union(*(runs for runs, _ in each)),
        rf"(?<!\w)(?:{words})(?!\w)" if words else "",
        any(" " in secret for secret in secrets),
    )


@lru_cache(maxsize=32)  # a long token has twelve thousand runs
def _runs_and_words(secret: str) -> tuple[frozenset[str], list[str]]:
    forms = list(_encodings(secret))
    runs = frozenset(form[i : i + _PART] for form in forms for i in range(len(form) - _PART + 1))
    return runs, [form for form in forms if len(form) < _PART]


def _encodings(secret: str) -> Iterator[str]:
    """The secret as it is, in hexadecimal digits, and in base64 by itself or behind something else."""
    data = secret.encode("utf-8", "replace")
    yield secret
    yield data.hex()
    yield data.hex().upper()
    for before, unsure in ((0, 0), (1, 2), (2, 3)):
        encoded = binascii.b2a_base64(bytes(before) + data, newline=False).decode().rstrip("=")[unsure:]
        if before == 0 or len(encoded) >= _PART:
            yield encoded
            yield encoded.translate(_URL_SAFE)


_URL_SAFE = str.maketrans("+/", "-_")


def mask_secrets(text: str, secrets: Iterable[str]) -> str:
    """Mask secrets in a text: each run of eight or more of their characters, however they are spelled."""
    known = _known(tuple(secrets))
    if known.words:
        text = re.sub(known.words, MASK, text)
    if not known.runs:
        return text
    for escapes, spelling in _SPELLINGS:
        if all(escape in text for escape in escapes):
            text = _mask_runs(text, known.runs, _spelled(text, spelling))
        if known.spaced and "+" in text:
            text = _mask_runs(text, known.runs, _spelled(text, spelling, plus=" "))
    return _mask_runs(text, known.runs, [(at, at + 1, char) for at, char in enumerate(text)])


def mask_json(body: bytes, secrets: Iterable[str]) -> bytes:
    """The JSON of a request, with secrets masked where they stand as they are: its writer has encoded none."""
    from json.encoder import encode_basestring

    for secret in secrets:
        if len(secret) >= 4 and secret.lower() not in _NO_SECRETS:
            word = encode_basestring(str(secret))[1:-1].encode("utf-8", "replace")
            if word in body:  # which is searched fast, however long it is
                whole = rb"(?<!\w)%b(?!\w)" if len(secret) < _PART else rb"%b"
                body = re.sub(whole % re.escape(word), MASK.encode(), body)
    return body


def mask_whole(text: str, secrets: Iterable[str]) -> str:
    """A short text with secrets masked where they stand as they are, and in any spelling where one does."""
    return mask_secrets(text, secrets) if any(secret in text for secret in secrets) else text


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


def _mask_runs(text: str, windows: frozenset[str], spelled: list[tuple[int, int, str]]) -> str:
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
        secrets: the caller's own; masked as they are, in part, as URLs and JSON spell them, in base64 and hexadecimal.
        limit: characters to keep; the rest is counted, not shown.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    # Cut with a margin first, so that a huge body costs no more than a small one, and no key is halved at the edge.
    cut = mask_secrets(text[: limit + 4096], secrets)
    # Compiled at the first error, not at import.
    cut = re.sub(_CREDENTIALS, _mask_match, cut, flags=re.IGNORECASE | re.VERBOSE)
    if len(text) > limit:
        return f"{cut[:limit]}… ({len(text)} characters in all)"
    return cut
