"""Images and audio for the model: what callers have, made into parts of a message."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import attrs

from .._rich_display import RichDisplay
from ..errors import ConfigurationError

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Largest image that is put into a request; OpenAI's own limit for one image is 20 MB."""
MAX_AUDIO_BYTES = 25 * 1024 * 1024
"""Largest audio clip that is put into a request; OpenAI's own limit for one is 25 MB."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Largest picture that is read from an answer."""

Detail = Literal["auto", "low", "high"]


@runtime_checkable
class PathLike(Protocol):
    """What names a file on purpose: a ``pathlib.Path`` or any other ``os.PathLike``, but no string."""

    def __fspath__(self) -> str: ...


class Readable(Protocol):
    """A file opened in binary mode."""

    def read(self, size: int = ..., /) -> bytes: ...


class PillowImage(Protocol):
    """A ``PIL.Image.Image``."""

    @property
    def mode(self) -> str: ...

    @property
    def save(self) -> Callable[..., Any]: ...


class MatplotlibFigure(Protocol):
    """A ``matplotlib.figure.Figure``."""

    @property
    def savefig(self) -> Callable[..., Any]: ...


_WEB_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE | re.ASCII)
_MAX_HEAD = 1000
"""Characters of a ``data:`` URL in which its content must begin."""
_IMAGE_TYPE = re.compile(r"image/[\w.+-]+", re.IGNORECASE | re.ASCII)


def _shown(text: str) -> str:
    return repr(text if len(text) < 80 else text[:60] + "…")


def _text(instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str):
        name = type(instance).__name__
        raise ConfigurationError(f"{name}'s {attribute.name} is a str, not {type(value).__name__}; {name}.of takes it")


def _detail(instance: Any, attribute: Any, value: Any) -> None:
    if value not in (None, "auto", "low", "high"):
        raise ConfigurationError(f"detail must be 'auto', 'low' or 'high', not {value!r}")


@attrs.frozen
class Image(RichDisplay):
    """An image for the model, as a URL that is sent as it is (``data:`` URLs included).

    ``of`` and the other constructors check what they are given; ``detail`` is how closely a server that knows it is to
    look: ``"auto"``, ``"low"`` or ``"high"``.
    """

    url: str = attrs.field(repr=_shown, validator=_text)
    detail: Detail | None = attrs.field(default=None, validator=_detail)

    @classmethod
    def of(cls, value: ImageInput) -> Image:
        """Take what callers have.

        A string is a URL and never a path, so that no visitor's text can name a file of the server. A ``Path``, bytes
        or a binary file object become a ``data:`` URL whose media type is told from the content. A Pillow image is
        sent as JPEG where it was opened as such, else as PNG, as RGB where PNG has no such mode; a Matplotlib figure as
        PNG.

        Raises:
            ConfigurationError: no such file, no known image format, more than 20 MB, or a string that is no URL.
        """
        if isinstance(value, Image):
            return value
        if isinstance(value, str):
            return cls.from_url(value)
        if isinstance(value, PathLike):
            return cls.from_path(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls.from_bytes(value)
        if _is_pillow(value):
            return cls.from_bytes(_encode_pillow(value))
        if _is_figure(value):
            return cls.from_bytes(_encode_figure(value))
        if hasattr(value, "read"):
            return cls.from_bytes(_read(value, "the image", MAX_IMAGE_BYTES))
        raise ConfigurationError(
            "an image is a URL, a pathlib.Path, bytes, a binary file, a Pillow image or a Matplotlib figure, "
            f"not {type(value).__name__}"
        )

    @staticmethod
    def is_one(value: object) -> bool:
        """Whether a value is an image by its type alone: an ``Image``, a Pillow image or a Matplotlib figure.

        Strings, paths and bytes are not: they may be anything.
        """
        return isinstance(value, Image) or _is_pillow(value) or _is_figure(value)

    @classmethod
    def from_path(
        cls, path: str | PathLike, *, detail: Detail | None = None, max_bytes: int = MAX_IMAGE_BYTES
    ) -> Image:
        """Read a file; never call it with a name that comes from elsewhere.

        Raises:
            ConfigurationError: it cannot be read, is no regular file, no known image, or larger than ``max_bytes``.
        """
        what = f"the image {str(path)!r}"
        return cls._embed(_read_path(path, what, max_bytes), what, None, detail)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        media_type: str | None = None,
        detail: Detail | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
    ) -> Image:
        """Take an encoded image.

        Args:
            data: PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF or HEIC, told by its content.
            media_type: what it is if it is none of these, such as ``"image/svg+xml"``.
            detail: how closely to look.
            max_bytes: the most that is taken, 20 MB by default.

        Raises:
            ConfigurationError: no known image and no ``media_type``, or larger than ``max_bytes``.
        """
        return cls._embed(_content(data, "the image", max_bytes), "the image", media_type, detail)

    @classmethod
    def from_url(cls, url: str, *, detail: Detail | None = None) -> Image:
        """Take an ``http:`` or ``https:`` URL for the server to fetch, or a ``data:`` URL of an image in base64.

        Raises:
            ConfigurationError: any other string, or a ``data:`` URL that is broken or holds more than 20 MB.
        """
        if _is_data_url(url, "an image", "Image"):
            _decode_data_url(url, "image/png", "the image", MAX_IMAGE_BYTES)
        return cls(url, detail)

    @classmethod
    def _embed(cls, data: bytes, what: str, media_type: str | None, detail: Detail | None) -> Image:
        if media_type is not None and not _IMAGE_TYPE.fullmatch(media_type):
            raise ConfigurationError(f"media_type must be like 'image/svg+xml', not {media_type!r}")
        media_type = _image_type(data) or media_type
        if media_type is None:
            raise ConfigurationError(
                f"{what} is not an image that is known (PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, HEIC); "
                "for another format, give Image.from_bytes its media_type"
            )
        return cls(f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}", detail)

    @property
    def content(self) -> bytes:
        """The picture itself, where it is a ``data:`` URL.

        Raises:
            ConfigurationError: it is elsewhere, or broken.
        """
        if not self.url[:5].lower() == "data:":
            raise ConfigurationError(f"the picture is not here but at {self.url[:200]}")
        return _decode_data_url(self.url, "image/png", "the image", MAX_ANSWER_BYTES)[1]

    def save(self, path: str | PathLike) -> None:
        """Write ``content`` to a file."""
        Path(path).write_bytes(self.content)

    def to_wire(self) -> dict[str, Any]:
        """The ``image_url`` part."""
        image_url = {"url": self.url}
        if self.detail is not None:
            image_url["detail"] = self.detail
        return {"type": "image_url", "image_url": image_url}


@attrs.frozen
class Audio:
    """An audio clip for the model: base64 ``data`` with its ``format``, or else the ``url`` of one.

    OpenAI takes the formats ``"wav"`` and ``"mp3"``, and no URL. Others, such as vLLM, take ``"flac"``, ``"ogg"``,
    ``"m4a"``, ``"webm"`` and URLs too.
    """

    data: str = attrs.field(default="", repr=_shown, validator=_text)
    format: str = attrs.field(default="", validator=_text)
    url: str = attrs.field(default="", repr=_shown, validator=_text, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if (bool(self.data), bool(self.format), bool(self.url)) not in ((True, True, False), (False, False, True)):
            raise ConfigurationError("an audio clip is either data with its format, or a url")

    @classmethod
    def of(cls, value: AudioInput) -> Audio:
        """Take what callers have.

        A string is a URL and never a path, so that no visitor's text can name a file of the server. A ``Path``, bytes
        or a binary file object are embedded, their format told from the content.

        Raises:
            ConfigurationError: no such file, no known audio format, more than 25 MB, or a string that is no URL.
        """
        if isinstance(value, Audio):
            return value
        if isinstance(value, str):
            return cls.from_url(value)
        if isinstance(value, PathLike):
            return cls.from_path(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls.from_bytes(value)
        if hasattr(value, "read"):
            return cls.from_bytes(_read(value, "the audio clip", MAX_AUDIO_BYTES))
        raise ConfigurationError(
            f"an audio clip is a URL, a pathlib.Path, bytes or a binary file, not {type(value).__name__}"
        )

    @classmethod
    def from_path(cls, path: str | PathLike, *, max_bytes: int = MAX_AUDIO_BYTES) -> Audio:
        """Read a file; never call it with a name that comes from elsewhere.

        Raises:
            ConfigurationError: it cannot be read, is no regular file, no known audio, or larger than ``max_bytes``.
        """
        what = f"the audio clip {str(path)!r}"
        return cls._embed(_read_path(path, what, max_bytes), what, None)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        format: str | None = None,
        max_bytes: int = MAX_AUDIO_BYTES,
    ) -> Audio:
        """Take encoded audio.

        Args:
            data: WAV, MP3, FLAC, Ogg, M4A, WebM, AAC or AIFF, told by its content.
            format: the server's name for what it is if it is none of these, such as ``"pcm16"``.
            max_bytes: the most that is taken, 25 MB by default.

        Raises:
            ConfigurationError: no known audio and no ``format``, or larger than ``max_bytes``.
        """
        return cls._embed(_content(data, "the audio clip", max_bytes), "the audio clip", format)

    @classmethod
    def from_url(cls, url: str) -> Audio:
        """Take an ``http:`` or ``https:`` URL for the server to fetch, or a ``data:`` URL of audio in base64.

        Raises:
            ConfigurationError: any other string, or a ``data:`` URL that is broken or holds more than 25 MB.
        """
        if not _is_data_url(url, "an audio clip", "Audio"):
            return cls(url=url)
        media_type, data = _decode_data_url(url, "audio/wav", "the audio clip", MAX_AUDIO_BYTES)
        subtype = media_type.partition("/")[2].removeprefix("x-")
        return cls._embed(data, "the audio clip", _FORMAT_OF_SUBTYPE.get(subtype, subtype))

    @classmethod
    def _embed(cls, data: bytes, what: str, format: str | None) -> Audio:
        name = audio_format(data) or format
        if not name:
            raise ConfigurationError(
                f"{what} is not audio that is known (WAV, MP3, FLAC, Ogg, M4A, WebM, AAC, AIFF); "
                "for another format, give Audio.from_bytes its format"
            )
        return cls(base64.b64encode(data).decode("ascii"), name)

    def to_wire(self) -> dict[str, Any]:
        """The ``input_audio`` part, or ``audio_url`` for a URL."""
        if self.url:
            return {"type": "audio_url", "audio_url": {"url": self.url}}
        return {"type": "input_audio", "input_audio": {"data": self.data, "format": self.format}}


ImageInput: TypeAlias = (
    "Image | str | PathLike | bytes | bytearray | memoryview | Readable | PillowImage | MatplotlibFigure"
)
"""What ``Image.of`` takes."""
AudioInput: TypeAlias = "Audio | str | PathLike | bytes | bytearray | memoryview | Readable"
"""What ``Audio.of`` takes."""


_IMAGE_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _image_type(data: bytes) -> str | None:
    """The media type that the content shows, or None."""
    for magic, media_type in _IMAGE_MAGIC:
        if data.startswith(magic):
            return media_type
    # Two letters alone would make an image of many a text; a bitmap's reserved bytes are zero.
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "image/bmp"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    brands = _brands(data)
    if b"avif" in brands or b"avis" in brands:
        return "image/avif"
    if brands and brands[0] in _HEIC_BRANDS:
        return "image/heic"
    return None


_AUDIO_MAGIC = (
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1aE\xdf\xa3", "webm"),
)
_M4A_BRANDS = (b"M4A", b"M4B", b"mp4", b"iso", b"das")
_FORMAT_OF_SUBTYPE = {"wave": "wav", "vnd.wave": "wav", "mpeg": "mp3", "mp4": "m4a"}


def audio_format(data: bytes) -> str | None:
    """The format that the content shows, or None."""
    for magic, name in _AUDIO_MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        # Layer 0 of a frame header is AAC's; layer I is long dead, and a UTF-16 text would look like it.
        return {0: "aac" if data[1] & 0xF0 == 0xF0 else None, 1: "mp3", 2: "mp3"}.get(data[1] >> 1 & 3)
    brands = _brands(data)
    if brands and brands[0][:3] in _M4A_BRANDS:
        return "m4a"
    return None


def _brands(data: bytes) -> list[bytes]:
    """The brands of an ISO media file, its major one first; none for anything else."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 256)
    major, compatible = data[8:12], data[16:end]
    return [major, *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class of an optional package, which is not loaded to find out."""
    return any((base.__module__, base.__name__) == (module, name) for base in type(value).__mro__)


def _is_pillow(value: object) -> bool:
    return _is_a(value, "PIL.Image", "Image")


def _is_figure(value: object) -> bool:
    return _is_a(value, "matplotlib.figure", "Figure")


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")


def _encode_pillow(image: Any) -> bytes:
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


def _encode_figure(figure: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", bbox_inches="tight")
    except Exception as error:  # drawing runs fonts, formulas and the caller's own artists
        raise ConfigurationError(f"the Matplotlib figure cannot be drawn: {error}") from error
    return buffer.getvalue()


def _is_data_url(url: str, noun: str, name: str) -> bool:
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


def _decode_data_url(url: str, example: str, what: str, limit: int) -> tuple[str, bytes]:
    """The media type and content of a ``data:`` URL of the kind that ``example``, a media type, is of."""
    head = _DATA_URL.match(url, 0, _MAX_HEAD)
    if head is None or head[1].lower().partition("/")[0] != example.partition("/")[0]:
        raise ConfigurationError(f"a data URL for {what} looks like 'data:{example};base64,...', not {url[:60]!r}")
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise ConfigurationError(f"the data URL of {what} is not valid base64: {error}") from error
    return head[1].lower(), _content(data, what, limit)


def _content(data: bytes | bytearray | memoryview, what: str, limit: int) -> bytes:
    try:
        size = memoryview(data).nbytes
    except TypeError:
        raise ConfigurationError(f"{what} must be given as bytes, not {type(data).__name__}") from None
    if not size:
        raise ConfigurationError(f"{what} is empty")
    if size > limit:
        raise _too_large(what, f"{size:,}", limit)
    return bytes(data)


def _read_path(path: str | PathLike, what: str, limit: int) -> bytes:
    try:
        found = Path(path).stat()
        if not S_ISREG(found.st_mode):
            raise ConfigurationError(f"cannot read {what}: it is a directory, a pipe or a device, not a regular file")
        if found.st_size > limit:
            raise _too_large(what, f"{found.st_size:,}", limit)
        with Path(path).open("rb") as file:
            return _content(_read(file, what, limit), what, limit)
    except ConfigurationError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(what, error) from error


def _read(file: Any, what: str, limit: int) -> bytes:
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
