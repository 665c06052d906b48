"""What of a text may be shown, and values that do not show themselves."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import examples, quick

from openai_compat.redaction import MASK, Secret, SecretBytes, masked, redact_error_body

KEY = "Zq7-f3K9_vTn2Xw8RbLd0HcJ"


@pytest.mark.parametrize("secret", [Secret(KEY), SecretBytes(KEY.encode())], ids=["text", "bytes"])
def test_a_secret_is_itself_but_does_not_show_itself(secret: Secret | SecretBytes) -> None:
    assert secret in (KEY, KEY.encode())
    shown = f"{secret!r} {[secret]} { {'key': secret} }"
    assert KEY not in shown
    assert shown.count(MASK) == 3


MASKED: dict[str, tuple[str, str]] = {
    "openai": ("Incorrect API key provided: sk-abc123DEF456.", "Incorrect API key provided: ***"),
    "openai-project": ("key sk-proj-abc_DEF-123456 bad", "key *** bad"),
    "openai-starred": ("sk-abc1****************wxyz", "***"),
    "groq": ("gsk_abcdefgh12345678", "***"),
    "xai": ("xai-abcdefgh12345678", "***"),
    "huggingface": ("token hf_abcdefghijkl is bad", "token *** is bad"),
    "google": ("AIzaSyA-1234567890abcdef", "***"),
    "jwt": ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln-bmF0", "***"),
    "bearer": ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
    "basic": ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
    "bearer-alone": ("sent bearer abcdef123456 twice", "sent bearer *** twice"),
    "json-field": ('{"api_key": "abcdef123456"}', '{"api_key": "***"}'),
    "json-token": ('{"access_token":"abcdef123456","x":1}', '{"access_token":"***","x":1}'),
    "query": ("GET /v1?api-key=abcdef123456&x=1", "GET /v1?api-key=***&x=1"),
    "header": ("x-api-key: abcdef123456", "x-api-key: ***"),
    "password": ("password=hunter2hunter2", "password=***"),
    "json-in-json": (r'{"e": "{\\"api_key\\": \\"abcdef123456\\"}"}', r'{"e": "{\\"api_key\\": \\"***\\"}"}'),
}
KEPT = {
    "plain": "model not found",
    "code": '{"code": "invalid_api_key"}',
    "word": "the task-manager is disk-bound",
    "tokens": "max_tokens: 1234567 is too large",
    "short": "token: abc",
    "umlaut": "Schlüssel fehlt",
    "basic-prose": "basic authentication failed",
    "bearer-prose": "a bearer token-based scheme, Bearer Authentication",
    "token-prose": "Invalid token: expired",
    "token-json": '{"token": "Invalid token.", "password": "required"}',
    "authorization-prose": "authorization: required by this server",
    "error-class": "token: InvalidTokenError",
    "key-code": '{"code": "key_not_found", "type": "key_expired_error"}',
    "key-value": "a key-value-store, hf_hub_download",
}


@pytest.mark.parametrize(("text", "wanted"), MASKED.values(), ids=MASKED)
def test_what_looks_like_a_credential_is_masked(text: str, wanted: str) -> None:
    assert redact_error_body(text) == wanted


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_is_no_credential_is_kept(text: str) -> None:
    assert redact_error_body(text) == text


@pytest.mark.parametrize("piece", ["token:", "sk-", "key-", "eyJ-", "hf-", "bearer aA-"])
def test_no_text_takes_quadratic_time(piece: str) -> None:
    """What a tool raises is redacted whole, and may quote what a model sent."""
    text = piece * 40_000  # took half a minute and more
    began = time.process_time()
    redact_error_body(text, limit=len(text))
    assert time.process_time() - began < 8


def test_a_long_token_is_masked() -> None:
    assert redact_error_body(f"got eyJ{'a' * 3000}.{'b' * 300}, sent", limit=4000) == "got ***, sent"


def test_length_is_bounded() -> None:
    shown = redact_error_body("x" * 1_000_000)
    assert shown == "x" * 2000 + "… (1000000 characters in all)"
    assert redact_error_body("x" * 11, limit=10) == "x" * 10 + "… (11 characters in all)"
    assert redact_error_body("x" * 10, limit=10) == "x" * 10


def test_no_key_is_halved_where_a_body_is_cut() -> None:
    for start in (1975, 1981, 1987, 1993, 1999):
        shown = redact_error_body("." * start + KEY + "." * 5000, secrets=[KEY])
        assert not leaked(shown, KEY)


def test_no_key_is_halved_where_masks_have_moved_the_cut() -> None:
    body = f"sk-{'a' * 60} " * 94 + KEY * 20
    assert not leaked(redact_error_body(body, secrets=[KEY]), KEY)


def test_bytes_are_read_as_utf8_and_damage_is_replaced() -> None:
    assert redact_error_body("é".encode() + b"\xff") == "é\ufffd"


@pytest.mark.parametrize(
    ("secret", "text", "wanted"),
    [
        pytest.param("abc", "abc", "abc", id="three characters mean nothing"),
        pytest.param("", "abc", "abc", id="no key"),
        pytest.param("abcd", "an abcd, abcde", "an ***, abcde", id="a short key only as a word"),
        pytest.param("abcd", "YWJjZA", "***", id="a short key in base64"),
        pytest.param("wombat", "at wombat: no", "at ***: no", id="six characters"),
        pytest.param("ollama", "at ollama: no", "at ollama: no", id="what stands in for a key"),
        pytest.param("sk-no-key-required", "a key is required", "a key is required", id="what stands in, longer"),
        pytest.param("12345678", "x12345678x", "x***x", id="eight characters anywhere"),
    ],
)
def test_short_keys(secret: str, text: str, wanted: str) -> None:
    assert redact_error_body(text, secrets=[secret]) == wanted


def test_a_part_of_a_key_of_eight_characters_is_masked_and_seven_are_not() -> None:
    assert redact_error_body(f"({KEY[5:13]})", secrets=[KEY]) == "(***)"
    assert redact_error_body(f"({KEY[5:12]})", secrets=[KEY]) == f"({KEY[5:12]})"


def test_a_key_that_no_encoding_can_spell_is_no_reason_to_fail() -> None:
    assert redact_error_body("nothing here", secrets=["\udcff" * 12]) == "nothing here"


def test_several_keys_are_masked() -> None:
    other = "another-Long_credential99"
    assert redact_error_body(f"{KEY} and {other}", secrets=[KEY, other]) == "*** and ***"


def leaked(shown: str, key: str) -> list[str]:
    """Every run of eight of the key's characters that can be read in ``shown``."""
    return [key[i : i + 8] for i in range(len(key) - 7) if key[i : i + 8] in shown]


def unescaped(text: str) -> str:
    """What a reader makes of JSON escapes, in a text that need not be JSON."""

    def plain(match: re.Match[str]) -> str:
        return chr(int(match[2], 16)) if match[2] else match[1]

    return re.sub(r'\\(?:(["\\/])|u([0-9a-fA-F]{4}))', plain, text)


def all_escaped(key: str) -> str:
    """A JSON string in which all that is no letter or digit is ``\\u00..``, as .NET writes it."""
    return "".join(char if char.isalnum() else f"\\u{ord(char):04X}" for char in key)


Spelling = tuple[Callable[[str], str], Callable[[str], str]]
SPELLINGS: dict[str, Spelling] = {
    "verbatim": (str, str),
    "url": (lambda key: quote(key, safe=""), unquote),
    "url-lower": (lambda key: re.sub("%..", lambda hit: hit[0].lower(), quote(key, safe="")), unquote),
    "url-path": (quote, unquote),
    "url-form": (quote_plus, unquote_plus),
    "json": (lambda key: json.dumps(key)[1:-1], unescaped),
    "json-slash": (lambda key: json.dumps(key)[1:-1].replace("/", "\\/"), unescaped),
    "json-all": (all_escaped, unescaped),
}
plain_keys = st.text("ABCDEFGHijklmnop0123456789-_", min_size=12, max_size=50)
odd_keys = st.text("ABCDefgh0123456789-_.~+/=:\"\\'%&#@!$ ", min_size=12, max_size=50).filter(
    lambda key: key == key.strip()
)
around = st.sampled_from(["", " ", '"', '{"error": "', "key=", "(", ": "])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", ['a+b/c"d\\e' * 3, "sk-ab/cd+ef==/gh_ij", "passw0rd&with'signs!", "00000\\%00000"])
def test_a_key_that_has_to_be_escaped_cannot_be_read(spelling: str, key: str) -> None:
    spell, read = SPELLINGS[spelling]
    shown = redact_error_body(f'{{"detail": "no such key ({spell(key)})"}}', secrets=[key])
    assert not leaked(read(shown), key)


@pytest.mark.parametrize("spelling", SPELLINGS)
@examples(50)
@given(data=st.data(), key=plain_keys | odd_keys, before=around, after=around)
def test_no_piece_of_a_key_can_be_read(spelling: str, data: st.DataObject, key: str, before: str, after: str) -> None:
    spell, read = SPELLINGS[spelling]
    start = data.draw(st.integers(0, len(key) - 1))
    end = data.draw(st.integers(start + 1, len(key)))
    shown = redact_error_body(before + spell(key[start:end]) + after, secrets=[key])
    assert not leaked(read(shown), key)


@quick
@given(key=plain_keys | odd_keys, before=around, after=around)
def test_no_piece_of_a_key_in_base64_can_be_read(key: str, before: str, after: str) -> None:
    encoded = base64.b64encode(key.encode()).decode()
    assert not leaked(redact_error_body(before + encoded + after, secrets=[key]), encoded.rstrip("="))


@pytest.mark.parametrize("key", [KEY, 'a+b/c"d\\e?~' * 2])
@pytest.mark.parametrize("before", ["", "u:", "Bearer ", "user:"])
@pytest.mark.parametrize("after", ["", ":x", ", more"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, binascii.hexlify])
def test_a_key_in_base64_or_hexadecimal_is_masked_wherever_it_begins(
    key: str, before: str, after: str, encode: Callable[[bytes], bytes]
) -> None:
    encoded = encode(f"{before}{key}{after}".encode()).decode()
    for spelled in (encoded, encoded.upper() if encode is binascii.hexlify else quote(encoded, safe="")):
        masked_text = redact_error_body(f"no ({spelled})", secrets=[key])
        shown = unquote(masked_text).removeprefix("no (").rpartition(")")[0]
        # All but the characters that hold bits of what stands before and behind it.
        assert len(shown.replace(MASK, "")) <= 2 * len(before + after) + 4, masked_text


def test_a_slice_of_a_secret_is_one() -> None:
    assert repr(Secret(KEY)[:8]) == repr(MASK)


def test_what_is_masked_is_itself() -> None:
    class Hidden:
        def get_secret_value(self) -> str:
            return KEY

    given = {"headers": {"X-Key": KEY}, "pairs": [("X-Key", KEY)], "auth": ("me", KEY.encode()), "key": Hidden()}
    hidden = masked(given)
    assert hidden == {**given, "key": KEY}
    assert KEY not in repr(hidden)
    assert masked(None) is None
    assert masked(7) == 7


@quick
@given(st.text(max_size=200), st.lists(plain_keys, max_size=2), st.integers(0, 50))
def test_redaction_never_raises_and_is_bounded(body: str, secrets: list[str], limit: int) -> None:
    shown = redact_error_body(body, secrets=secrets, limit=limit)
    assert len(shown.partition("… (")[0]) <= max(limit, 3 * len(body))
