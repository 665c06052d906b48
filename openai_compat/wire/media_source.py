"""The bytes of a picture or a sound, from whatever callers have: files, ``data:`` URLs, pictures of other packages."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigurationError

_WEB_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE | re.ASCII)
_MAX_HEAD = 1000
"""Characters of a ``data:`` URL in which its content must begin."""


@runtime_checkable
class PathLike(Protocol):
    """What names a file on purpose: a ``pathlib.Path`` or any other ``os.PathLike``, but no string."""

    def __fspath__(self) -> str: ...


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class of an optional package, which is not loaded to find out."""
    return any((base.__module__, base.__name__) == (module, name) for base in type(value).__mro__)


def is_pillow(value: object) -> bool:
    return _is_a(value, "PIL.Image", "Image")


def is_figure(value: object) -> bool:
    return _is_a(value, "matplotlib.figure", "Figure")


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")


def encode_pillow(image: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        if image.format in ("JPEG", "MPO"):  # MPO is the JPEG of many phones
            fitting = image if image.mode in ("L", "RGB") else image.convert("RGB")
            fitting.save(buffer, "JPEG", quality=90)
        else:
            fitting = image if image.mode in _PNG_MODES else image.convert("RGB")
            fitting.save(buffer, "PNG")
    except Exception as error:  # Pillow raises what its many plugins raise
        raise ConfigurationError(f"the Pillow image cannot be encoded: {error}") from error
    return buffer.getvalue()


def encode_figure(figure: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", bbox_inches="tight")
    except Exception as error:  # drawing runs fonts, formulas and the caller's own artists
        raise ConfigurationError(f"the Matplotlib figure cannot be drawn: {error}") from error
    return buffer.getvalue()


def is_data_url(url: str, noun: str, name: str) -> bool:
    """Whether what should be a URL is a ``data:`` URL; else it is one of the web.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(url, str) and url[:5].lower() == "data:":
        return True
    if isinstance(url, str) and _WEB_URL.match(url):
        return False
    raise ConfigurationError(
        f"{noun} given as a string must be an http, https or data URL, not {str(url)[:60]!r}; "
        f"for a file, give a pathlib.Path or call {name}.from_path"
    )


def decode_data_url(url: str, example: str, what: str, limit: int) -> tuple[str, bytes]:
    """The media type and content of a ``data:`` URL of the kind that ``example``, a media type, is of."""
    head = _DATA_URL.match(url, 0, _MAX_HEAD)
    if head is None or head[1].lower().partition("/")[0] != example.partition("/")[0]:
        raise ConfigurationError(f"a data URL for {what} looks like 'data:{example};base64,...', not {url[:60]!r}")
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise ConfigurationError(f"the data URL of {what} is not valid base64: {error}") from error
    return head[1].lower(), checked_content(data, what, limit)


def checked_content(data: bytes | bytearray | memoryview, what: str, limit: int) -> bytes:
    try:
        size = memoryview(data).nbytes
    except TypeError:
        raise ConfigurationError(f"{what} must be given as bytes, not {type(data).__name__}") from None
    if not size:
        raise ConfigurationError(f"{what} is empty")
    if size > limit:
        raise _too_large(what, f"{size:,}", limit)
    return bytes(data)


def read_path(path: str | PathLike, what: str, limit: int) -> bytes:
    try:
        found = Path(path).stat()
        if not S_ISREG(found.st_mode):
            raise ConfigurationError(f"cannot read {what}: it is a directory, a pipe or a device, not a regular file")
        if found.st_size > limit:
            raise _too_large(what, f"{found.st_size:,}", limit)
        with Path(path).open("rb") as file:
            return checked_content(read_file(file, what, limit), what, limit)
    except ConfigurationError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(what, error) from error


def read_file(file: Any, what: str, limit: int) -> bytes:
    """All of a file, but no more than one byte past ``limit``: some never end."""
    data = bytearray()
    while len(data) <= limit:
        try:
            piece = file.read(limit + 1 - len(data))
        except (OSError, TypeError, ValueError) as error:
            raise _unreadable(what, error) from error
        if not isinstance(piece, bytes):
            raise ConfigurationError(
                f"{what} must come from a file opened in binary mode ('rb'): read() gave {type(piece).__name__}"
            )
        if not piece:
            return bytes(data)
        data += piece
    raise _too_large(what, f"more than {limit:,}", limit)


def _unreadable(what: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}")


def _too_large(what: str, size: str, limit: int) -> ConfigurationError:
    return ConfigurationError(
        f"{what} has {size} bytes; the limit is {limit:,}: make it smaller first, "
        "or raise max_bytes of from_path or from_bytes"
    )
