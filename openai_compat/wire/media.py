"""Images and audio for the model: what callers have, made into parts of a message."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import attrs

from .._rich_display import RichDisplay
from ..errors import ConfigurationError
from ..schema.text import text_of
from .media_source import (
    PathLike,
    checked_content,
    decode_data_url,
    encode_figure,
    encode_pillow,
    is_data_url,
    is_figure,
    is_pillow,
    read_file,
    read_path,
)
from .media_types import audio_format, image_type
from .plain import PlainFields, text

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Largest image that is put into a request; OpenAI's own limit for one image is 20 MB."""
MAX_AUDIO_BYTES = 25 * 1024 * 1024
"""Largest audio clip that is put into a request; OpenAI's own limit for one is 25 MB."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Largest picture that is read from an answer."""

Detail = Literal["auto", "low", "high"]


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


_IMAGE_TYPE = re.compile(r"image/[\w.+-]+", re.IGNORECASE | re.ASCII)
_FORMAT_OF_SUBTYPE = {"wave": "wav", "vnd.wave": "wav", "mpeg": "mp3", "mp4": "m4a"}


_OF_AN_IMAGE = PlainFields({"url": text, "detail": text})
_OF_A_CLIP = PlainFields({"data": text, "format": text, "url": text})


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

    def __attrs_post_init__(self) -> None:
        _OF_AN_IMAGE(self)

    @classmethod
    def of(cls, value: ImageInput) -> Image:
        """Take what callers have.

        A string is a URL and never a path, so that no visitor's text can name a file of the server. A ``Path``, bytes
        or a binary file object become a ``data:`` URL whose media type is inferred from the content. A Pillow image is
        sent as JPEG where it was opened as such, else as PNG, as RGB where PNG has no such mode; a Matplotlib figure as
        PNG.

        Raises:
            ConfigurationError: no such file, no known image format, more than 20 MB, or a string that is no URL.
        """
        if isinstance(value, Image):
            return value
        if (url := text_of(value)) is not None:
            return cls.from_url(url)
        if isinstance(value, PathLike):
            return cls.from_path(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls.from_bytes(value)
        if is_pillow(value):
            return cls.from_bytes(encode_pillow(value))
        if is_figure(value):
            return cls.from_bytes(encode_figure(value))
        if hasattr(value, "read"):
            return cls.from_bytes(read_file(value, "the image", MAX_IMAGE_BYTES))
        raise ConfigurationError(
            "an image is a URL, a pathlib.Path, bytes, a binary file, a Pillow image or a Matplotlib figure, "
            f"not {type(value).__name__}"
        )

    @staticmethod
    def is_one(value: object) -> bool:
        """Whether a value is an image by its type alone: an ``Image``, a Pillow image or a Matplotlib figure.

        Strings, paths and bytes are not: they may be anything.
        """
        return isinstance(value, Image) or is_pillow(value) or is_figure(value)

    @classmethod
    def from_path(
        cls, path: str | PathLike, *, detail: Detail | None = None, max_bytes: int = MAX_IMAGE_BYTES
    ) -> Image:
        """Read a file; never call it with a name that comes from elsewhere.

        Raises:
            ConfigurationError: it cannot be read, is no regular file, no known image, or larger than ``max_bytes``.
        """
        what = f"the image {str(path)!r}"
        return cls._embed(read_path(path, what, max_bytes), what, None, detail)

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
            data: PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF or HEIC, recognised by its content.
            media_type: what it is if it is none of these, such as ``"image/svg+xml"``.
            detail: how closely to look.
            max_bytes: the most that is taken, 20 MB by default.

        Raises:
            ConfigurationError: no known image and no ``media_type``, or larger than ``max_bytes``.
        """
        return cls._embed(checked_content(data, "the image", max_bytes), "the image", media_type, detail)

    @classmethod
    def from_url(cls, url: str, *, detail: Detail | None = None) -> Image:
        """Take an ``http:`` or ``https:`` URL for the server to fetch, or a ``data:`` URL of an image in base64.

        Raises:
            ConfigurationError: any other string, or a ``data:`` URL that is broken or holds more than 20 MB.
        """
        if is_data_url(url, "an image", "Image"):
            decode_data_url(url, "image/png", "the image", MAX_IMAGE_BYTES)
        return cls(url, detail)

    @classmethod
    def _embed(cls, data: bytes, what: str, media_type: str | None, detail: Detail | None) -> Image:
        if media_type is not None and not _IMAGE_TYPE.fullmatch(media_type):
            raise ConfigurationError(f"media_type must be like 'image/svg+xml', not {media_type!r}")
        media_type = image_type(data) or media_type
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
        return decode_data_url(self.url, "image/png", "the image", MAX_ANSWER_BYTES)[1]

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
        _OF_A_CLIP(self)

    @classmethod
    def of(cls, value: AudioInput) -> Audio:
        """Take what callers have.

        A string is a URL and never a path, so that no visitor's text can name a file of the server. A ``Path``, bytes
        or a binary file object are embedded, their format inferred from the content.

        Raises:
            ConfigurationError: no such file, no known audio format, more than 25 MB, or a string that is no URL.
        """
        if isinstance(value, Audio):
            return value
        if (url := text_of(value)) is not None:
            return cls.from_url(url)
        if isinstance(value, PathLike):
            return cls.from_path(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls.from_bytes(value)
        if hasattr(value, "read"):
            return cls.from_bytes(read_file(value, "the audio clip", MAX_AUDIO_BYTES))
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
        return cls._embed(read_path(path, what, max_bytes), what, None)

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
            data: WAV, MP3, FLAC, Ogg, M4A, WebM, AAC or AIFF, recognised by its content.
            format: the server's name for what it is if it is none of these, such as ``"pcm16"``.
            max_bytes: the most that is taken, 25 MB by default.

        Raises:
            ConfigurationError: no known audio and no ``format``, or larger than ``max_bytes``.
        """
        return cls._embed(checked_content(data, "the audio clip", max_bytes), "the audio clip", format)

    @classmethod
    def from_url(cls, url: str) -> Audio:
        """Take an ``http:`` or ``https:`` URL for the server to fetch, or a ``data:`` URL of audio in base64.

        Raises:
            ConfigurationError: any other string, or a ``data:`` URL that is broken or holds more than 25 MB.
        """
        if not is_data_url(url, "an audio clip", "Audio"):
            return cls(url=url)
        media_type, data = decode_data_url(url, "audio/wav", "the audio clip", MAX_AUDIO_BYTES)
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
