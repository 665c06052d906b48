"""The formats of JSON Schema that text can be checked for without asking anybody."""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid
from collections.abc import Callable

from .js_pattern import python_pattern

_DAY = r"\d{4}-\d\d-\d\d"
_CLOCK = r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d|60)(?:\.\d+)?"
_ZONE = r"(?:[zZ]|(?P<sign>[+-])(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d))"
_TIME = re.compile(_CLOCK + _ZONE, re.ASCII)
_TIMES = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_DATES = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"
_DURATION = re.compile(rf"P(?:{_DATES}(?:{_TIMES})?|{_TIMES}|\d+W)", re.ASCII)
_LABEL = r"(?!(?!xn).{2}--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_LOCAL = re.compile(r"""[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*|"(?:[^"\\]|\\.)*\"""", re.ASCII)
_PART = r"[\w.~!$&'()*+,;=-]|%[0-9a-f]{2}"
_URI = re.compile(
    rf"(?:(?P<scheme>[a-z][a-z0-9+.-]*):|(?![^/?#]*:))"
    rf"(?://(?:(?:{_PART}|:)*@)?(?:\[(?P<literal>[0-9a-z.:]+)\]|(?:{_PART})*)(?::\d*)?(?=[/?#]|\Z)|(?!//))"
    rf"(?:{_PART}|[:/@])*(?:\?(?:{_PART}|[:/?@])*)?(?:\#(?:{_PART}|[:/?@])*)?",
    re.ASCII | re.IGNORECASE,
)
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


def is_of_format(text: str, name: str) -> bool:
    """Whether a text is of a format; of one that is not known here, any is."""
    check = _CHECKS.get(name)
    try:
        return check is None or check(text)
    except (ValueError, OverflowError, RecursionError, re.error):
        return False


def _date(text: str) -> bool:
    return bool(re.fullmatch(_DAY, text, re.ASCII) and datetime.date.fromisoformat(text))


def _time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    if not found or found["second"] != "60":
        return bool(found)
    # A leap second comes at the end of a day in UTC.
    away = int(found["hours"] or 0) * 60 + int(found["minutes"] or 0)
    minutes = int(found["hour"]) * 60 + int(found["minute"]) - (away if found["sign"] != "-" else -away)
    return minutes % 1440 == 1439


def _date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _date(text[:10]) and _time(text[11:])


def _email(text: str) -> bool:
    local, _, host = text.rpartition("@")
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        valid = _ipv6(inner.removeprefix("IPv6:")) if inner.startswith("IPv6:") else _ipv4(inner)
    else:
        valid = _hostname(host)
    return valid and bool(_LOCAL.fullmatch(local))


def _hostname(text: str) -> bool:
    return len(text) <= 253 and bool(_HOST.fullmatch(text))


def _ipv4(text: str) -> bool:
    return bool(ipaddress.IPv4Address(text)) or True


def _ipv6(text: str) -> bool:
    return "%" not in text and (bool(ipaddress.IPv6Address(text)) or True)


def _uuid(text: str) -> bool:
    return len(text) == 36 and str(uuid.UUID(text)) == text.lower()


def _uri_reference(text: str) -> bool:
    found = _URI.fullmatch(text)
    literal = found["literal"] if found else None
    return found is not None and (literal is None or literal[:1] in "vV" or _ipv6(literal))


def _uri(text: str) -> bool:
    return _uri_reference(text) and re.match("[A-Za-z][A-Za-z0-9+.-]*:", text) is not None


def _regex(text: str) -> bool:
    return bool(re.compile(python_pattern(text)))


_CHECKS: dict[str, Callable[[str], bool]] = {
    "date": _date,
    "date-time": _date_time,
    "duration": lambda text: bool(_DURATION.fullmatch(text)),
    "email": _email,
    "hostname": _hostname,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "json-pointer": lambda text: bool(_POINTER.fullmatch(text)),
    "regex": _regex,
    "time": _time,
    "uri": _uri,
    "uri-reference": _uri_reference,
    "uuid": _uuid,
}
