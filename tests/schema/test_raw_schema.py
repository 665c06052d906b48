"""A JSON Schema of the user's: patterns of JavaScript's kind, formats, references, and how much a check may take."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openai_compat.errors import ConfigurationError
from openai_compat.schema import raw_schema
from openai_compat.schema.formats import is_of_format
from openai_compat.schema.js_pattern import python_pattern
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.raw_schema import RawSchema

# A pattern, what it finds, and what it does not.
PATTERNS: dict[str, tuple[str, str, str]] = {
    "group": (r"^(?<year>\d{4})-\k<year>$", "2024-2024", "2024-2025"),
    "end": ("a$", "ba", "a\n"),
    "digit": (r"^\d$", "7", "\u0667"),
    "no-digit": (r"^\D$", "\u0667", "7"),
    "word": (r"^\w+$", "a_1", "é"),
    "blank": (r"^\s$", "\ufeff", "a"),
    "no-blank": (r"^\S$", "a", "\xa0"),
    "digits-in-brackets": (r"^[\d.]+$", "1.5", "x"),
    "not-digits-in-brackets": (r"^[^\d]$", "a", "7"),
    "slash": (r"^\/a$", "/a", "a"),
    "dash": (r"^[\w\-]+$", "a-b", "a b"),
    "point": (r"^\u{1F600}$", "😀", "a"),
    "pair": (r"^\ud83d\ude00$", "😀", "a"),
    "letter": (r"^\p{Letter}+$", "éπ", "1"),
    "no-letter": (r"^\P{L}$", "1", "é"),
    "category": (r"^\p{Lu}$", "Ä", "ä"),
    "category-in-brackets": (r"^[\p{L}\d]+$", "é7", "-"),
    "category-by-name": (r"^\p{General_Category=Decimal_Number}$", "\u0667", "a"),
    "control": (r"^\cI$", "\t", "I"),
    "anything": ("^[^]$", "\n", ""),
    "nothing": ("^[]|a$", "a", "b"),
    "dollar-in-brackets": ("^[$]$", "$", "\\"),
    "bracket-in-brackets": (r"^[[]$", "[", "a"),
    "lookahead": (r"^(?=a)\w$", "a", "b"),
}


@pytest.mark.parametrize(("pattern", "found", "missed"), PATTERNS.values(), ids=PATTERNS)
def test_patterns_of_javascripts_kind(pattern: str, found: str, missed: str) -> None:
    schema = RawSchema({"type": "string", "pattern": pattern})
    assert schema.convert(found) == found
    with pytest.raises(ValidationError) as caught:
        schema.convert(missed)
    assert repr(pattern) in str(caught.value), "told as it was written"
    keys = RawSchema({"patternProperties": {pattern: False}})
    assert keys.convert({missed: 1}) == {missed: 1}
    with pytest.raises(ValidationError):
        keys.convert({found: 1})
    assert schema.schema["pattern"] == pattern, "sent as it was written"


def test_a_property_that_has_the_name_of_a_keyword_is_no_keyword() -> None:
    schema = RawSchema({"properties": {"pattern": {"const": "a$"}, "patternProperties": {"enum": [{r"\d": 1}]}}})
    value = {"pattern": "a$", "patternProperties": {r"\d": 1}}
    assert schema.convert(value) == value


@pytest.mark.parametrize("pattern", [r"\p{Script=Greek}", r"\p{Emoji}"])
def test_a_property_that_is_not_known_is_told(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="is not known in a pattern"):
        python_pattern(pattern)
    with pytest.raises(ConfigurationError, match="no JSON Schema"):
        RawSchema({"pattern": pattern})


def test_any_pattern_of_pythons_kind_means_the_same() -> None:
    for pattern, text in ((r"^[a-z]+(\.[a-z]+)*$", "a.b"), (r"(?:a|b){2,3}?", "ab"), (r"\bword\b", "a word")):
        assert re.search(python_pattern(pattern), text)


# A format, texts of it, and others.
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "date": (("2024-02-29",), ("2023-02-29", "20240229", "today")),
    "time": (("12:30:00Z", "23:59:60Z", "12:30:00.5+02:00"), ("12:30", "12:30:00", "24:00:00Z", "12:00:60Z")),
    "date-time": (("2024-02-29T12:30:00Z",), ("2024-02-29 12:30:00Z", "2024-02-29T12:30:00", "2024-02-30T12:30:00Z")),
    "duration": (("P1DT2H", "PT1S", "P2W"), ("P", "PT", "1D", "P1H", "P1D2W")),
    "email": (
        ("a.b@example.org", '"a b"@example.org', "a@[127.0.0.1]"),
        ("a", "a@", ".a@b", "a b@c.d", "a@[300.0.0.1]"),
    ),
    "hostname": (("example.org", "a"), ("-a", "a..b", "a_b", "a" * 64, "")),
    "ipv4": (("127.0.0.1",), ("127.0.0", "256.0.0.1", "01.0.0.1")),
    "ipv6": (("::1", "::ffff:1.2.3.4"), ("1", "::g", "fe80::1%eth0")),
    "uri": (("https://example.org:80/a?b#c", "urn:a:b", "http://[::1]/"), ("/a", "a b", "http://a:b", "http://[x]/")),
    "uri-reference": (("/a?b", "a", "//h/a"), ("a b", "\\", "a:b:c d")),
    "uuid": (("00000000-0000-0000-0000-000000000001",), ("1", "{00000000-0000-0000-0000-000000000001}")),
    "regex": (("^(?<a>b)$",), ("(",)),
    "json-pointer": (("", "/a~1b"), ("a", "/a~2")),
    "made-up": (("anything",), ()),
}


@pytest.mark.parametrize(("name", "texts", "others"), [(name, *pair) for name, pair in FORMATS.items()], ids=FORMATS)
def test_formats_are_checked(name: str, texts: tuple[str, ...], others: tuple[str, ...]) -> None:
    schema = RawSchema({"format": name})
    for text in (*texts, 3):
        assert schema.convert(text) == text
    for text in others:
        assert not is_of_format(text, name)
        with pytest.raises(ValidationError, match=f"is not a '{name}'"):
            schema.convert(text)
        assert RawSchema({"format": name}, formats=False).convert(text) == text


def test_only_documents_that_are_given_are_read() -> None:
    schema = {"$ref": "https://example.org/person"}
    with pytest.raises(ConfigurationError, match="the reference 'https://example.org/person' leads nowhere"):
        RawSchema(schema)
    given = RawSchema(schema, documents={"https://example.org/person": {"type": "integer"}})
    with pytest.raises(ValidationError):
        given.convert("x")


def test_the_path_is_that_of_what_is_wrong() -> None:
    inner = {"type": "object", "properties": {"a b": {"items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}}
    with pytest.raises(ValidationError) as caught:
        RawSchema({"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": inner}}).convert({"x": {"a b": [1, "y"]}})
    assert caught.value.path == '$.x["a b"][1]'


def test_items_are_compared_once_each() -> None:
    schema = RawSchema({"uniqueItems": True})
    for unique in (
        [1, True, "1", None, [1], {"a": 1}],
        [0, False, [], {}, ""],
        [{"number": at} for at in range(20_000)],
    ):
        assert schema.convert(unique) == unique
    for repeated in ([1, 1.0], [True, True], [{"a": [1], "b": 2}, {"b": 2, "a": [1.0]}]):
        with pytest.raises(ValidationError, match="has non-unique elements"):
            schema.convert(repeated)
    assert RawSchema({"uniqueItems": False}).convert([1, 1]) == [1, 1]


def test_a_check_that_takes_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_schema, "MAX_STEPS", 100)
    schema = RawSchema({"items": {"type": "integer"}})
    schema.convert([1] * 90)
    with pytest.raises(ValidationError, match="cannot be checked: it takes more than 100 steps"):
        schema.convert(list(range(1000, 1200)))


def test_a_panic_where_the_stack_ends_is_told_and_an_interrupt_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = RawSchema({"type": "integer"})
    panic = type("PanicException", (BaseException,), {})  # as pyo3 has it, which no Exception is above

    def raising(error: BaseException) -> None:
        def made(self: RawSchema) -> Any:
            raise error

        monkeypatch.setattr(RawSchema, "_made", made)

    raising(panic("__eq__ failed!"))
    with pytest.raises(ValidationError, match="cannot be checked: __eq__ failed!"):
        schema.convert(1)
    raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        schema.convert(1)


@pytest.mark.parametrize(
    "schema",
    [{}, {"title": "Anything"}, {"then": False}, {"x-mine": 1}, {"description": "x", "type": "object"}, {"$defs": {}}],
)
def test_a_schema_that_says_little_is_one(schema: Any) -> None:
    assert RawSchema(schema).convert({"a": 1}) == {"a": 1}
