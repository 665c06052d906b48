"""Regular expressions of JavaScript's kind, which JSON Schema has, as Python's."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

from ..errors import ConfigurationError

_TOKEN = re.compile(
    r"""\\u\{(?P<point>[0-9A-Fa-f]{1,6})\}
    | \\u(?P<high>[dD][89abAB][0-9A-Fa-f]{2})\\u(?P<low>[dD][c-fC-F][0-9A-Fa-f]{2})
    | \\(?P<not>[pP])\{(?P<property>[^}]*)\}
    | \\c(?P<control>[A-Za-z])
    | \\k<(?P<back>[A-Za-z_$][\w$]*)>
    | \(\?<(?P<name>[A-Za-z_$][\w$]*)>
    | \\(?P<class>[dDwWsS])
    | \\(?P<escaped>.)
    | (?P<empty>\[\]) | (?P<any>\[\^\])
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BLANKS = r"\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": _BLANKS}
_LONG_NAMES = {
    "letter": "L", "lowercase_letter": "Ll", "uppercase_letter": "Lu", "titlecase_letter": "Lt", "mark": "M",
    "number": "N", "decimal_number": "Nd", "digit": "Nd", "punctuation": "P", "symbol": "S", "separator": "Z",
    "space_separator": "Zs", "other": "C", "control": "Cc",
}  # fmt: skip


def python_pattern(pattern: str) -> str:
    """A pattern as ``re`` takes it; what it would refuse anyway is left as it is.

    Raises:
        ConfigurationError: a Unicode property that is no general category.
    """
    made: list[str] = []
    inside = False  # of brackets
    for token in _TOKEN.finditer(pattern):
        kind, text = token.lastgroup, token[0]
        if point := token["point"]:
            made.append(_literal(int(point, 16)))
        elif token["high"]:
            high, low = int(token["high"], 16), int(token["low"], 16)
            made.append(_literal(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)))
        elif token["not"]:
            made.append(_set(_category(token["property"]), token["not"] == "P", inside))
        elif control := token["control"]:
            made.append(_literal(ord(control) % 32))
        elif kind == "class":
            name = text[1]
            # Within brackets a class that is not one of these is rare, and Python's is close to it.
            negated = name.isupper()
            made.append(text if negated and inside else _set(_CLASSES[name.lower()], negated, inside))
        elif kind == "back":
            made.append(f"(?P={token['back']})")
        elif kind == "name":
            made.append(f"(?P<{token['name']}>")
        elif kind == "escaped":
            made.append(re.escape(text[1]) if text[1] in "/-" else text)
        elif not inside and kind in ("empty", "any"):
            made.append("(?!)" if kind == "empty" else r"[\s\S]")
        elif not inside and text == "$":
            made.append(r"\Z")
        elif kind in ("empty", "any"):  # a bracket within brackets, and their end
            made.append("\\" + text)
            inside = False
        else:
            # A bracket within brackets, and some doubled signs, mean nothing to JavaScript.
            made.append("\\" + text if inside and text in "[&~|" else text)
            inside = text == "[" or (inside and text != "]")
    return "".join(made)


def _literal(point: int) -> str:
    return re.escape(chr(point)) if point <= sys.maxunicode else "(?!)"


def _set(inner: str, negated: bool, inside: bool) -> str:
    if inside and not negated:
        return inner
    return f"[{'^' if negated else ''}{inner}]"


@functools.lru_cache(maxsize=64)
def _category(said: str) -> str:
    """The characters of a general category, as what stands in brackets."""
    name = re.sub(r"^(General_Category|gc)=", "", said)
    name = _LONG_NAMES.get(name.lower(), name)
    if not re.fullmatch(r"[CLMNPSZ][a-z]?", name):
        raise ConfigurationError(f"the Unicode property {said!r} is not known in a pattern")
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)).startswith(name):
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
