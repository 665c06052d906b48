"""Messages, images, tool calls and usage: attrs values and their wire JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from ..errors import ConfigurationError
from .decode import as_int, as_mapping

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Largest image that is put into a request; OpenAI's own limit for one image is 20 MB."""


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens as the server counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_wire(cls, value: Any) -> Usage | None:
        """Read a ``usage`` object; None where it says nothing."""
        if not isinstance(value, dict) or not value:
            return None
        get = value.get
        input_tokens = as_int(get("prompt_tokens", get("input_tokens")))
        output_tokens = as_int(get("completion_tokens", get("output_tokens")))
        total_tokens = as_int(get("total_tokens"))
        if total_tokens is None and input_tokens is not None and output_tokens is not None:
            total_tokens = input_tokens + output_tokens
        cached = as_mapping(get("prompt_tokens_details") or get("input_tokens_details")).get("cached_tokens")
        thought = as_mapping(get("completion_tokens_details") or get("output_tokens_details")).get("reasoning_tokens")
        return cls(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=total_tokens,
            cached_tokens=as_int(get("prompt_cache_hit_tokens", get("cached_tokens")) if cached is None else cached),
            reasoning_tokens=as_int(get("reasoning_tokens") if thought is None else thought),
            raw=value,
        )

    def __add__(self, other: Usage | None) -> Usage:
        """The sum of two calls; what neither reported stays None."""
        if other is None:
            return self

        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            total_tokens=add(self.total_tokens, other.total_tokens),
            cached_tokens=add(self.cached_tokens, other.cached_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
        )


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call that the model asks for.

    ``arguments`` is the decoded object, or None where no JSON object can be had: then ``invalid`` is True and
    ``arguments_json`` the text as it came. ``extra`` holds what the server sent with the call, for echoing.
    """

    id: str
    name: str
    arguments: dict[str, Any] | None = None
    arguments_json: str = "{}"
    invalid: bool = False
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """The call as it is sent back. Invalid arguments go as ``{}``: servers refuse a history with broken JSON."""
        function = {"name": self.name, "arguments": "{}" if self.invalid else self.arguments_json}
        extra = dict(self.extra)
        function.update(as_mapping(extra.pop("function", None)))
        return {"id": self.id, "type": "function", "function": function, **extra}


def _calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(calls)


@attrs.frozen(kw_only=True)
class Message(Mapping[str, Any]):
    """One message of a conversation, readable like its wire dict: ``message["content"]``, ``dict(message)``.

    ``extra`` holds provider fields that a later turn must echo (``reasoning_content``, ``reasoning_details``, ...);
    they go only to the server named by ``origin``.
    """

    role: str
    content: str | Sequence[Mapping[str, Any]] | None = None
    tool_calls: tuple[ToolCall, ...] = attrs.field(default=(), converter=_calls)
    tool_call_id: str | None = None
    name: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    origin: str = attrs.field(default="", repr=False)

    def to_wire(self, origin: str | None = None) -> dict[str, Any]:
        """The wire dict, with the provider's own fields unless it goes to another ``origin``.

        An assistant message with tool calls and no text has ``content: null``; without calls it has ``""``.
        """
        wire: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            wire["name"] = self.name
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            wire["content"] = self.content or None
            wire["tool_calls"] = [call.to_wire() for call in self.tool_calls]
        elif self.content is None:
            wire["content"] = ""
        if not self.origin or origin is None or origin == self.origin:
            wire.update(self.extra)
        return wire

    def __getitem__(self, key: str) -> Any:
        return self.to_wire()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_wire())

    def __len__(self) -> int:
        return len(self.to_wire())


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def _media_type(data: bytes) -> str:
    for magic, media_type in _MAGIC:
        if data.startswith(magic):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1"):
        return "image/heic"
    raise ConfigurationError("not an image that is known (PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, HEIC)")


@attrs.frozen
class Image:
    """An image for the model, as a URL (``data:`` URLs included)."""

    url: str = attrs.field(repr=lambda url: repr(url if len(url) < 80 else url[:60] + "…"))

    @classmethod
    def of(cls, value: Image | str | bytes | bytearray | Path | IO[bytes]) -> Image:
        """Take what callers have.

        A string is a URL and never a path, so that no visitor's text can name a file of the server; a ``Path``, bytes
        or a binary file object become a ``data:`` URL whose media type is told from the content.

        Raises:
            ConfigurationError: no such file, no known image format, more than 20 MB, or a string that is no URL.
        """
        if isinstance(value, Image):
            return value
        if isinstance(value, str):
            scheme = value.partition(":")[0].lower()
            if scheme not in ("http", "https", "data"):
                raise ConfigurationError(
                    f"an image given as a string must be an http, https or data URL, not {value[:60]!r}; "
                    "for a file, give a pathlib.Path"
                )
            return cls(value)
        if isinstance(value, Path):
            return cls._read(value)
        if isinstance(value, (bytes, bytearray)):
            return cls._embed(bytes(value), "the image")
        if hasattr(value, "read"):
            data = value.read()
            if not isinstance(data, bytes):
                raise ConfigurationError("an image file must be opened in binary mode ('rb')")
            return cls._embed(data, "the image")
        raise ConfigurationError(
            f"an image is a URL, a pathlib.Path, bytes or a binary file, not {type(value).__name__}"
        )

    @classmethod
    def _read(cls, path: Path) -> Image:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read the image {str(path)!r}: {error.strerror or error}") from error
        return cls._embed(data, repr(str(path)))

    @classmethod
    def _embed(cls, data: bytes, what: str) -> Image:
        if len(data) > MAX_IMAGE_BYTES:
            raise ConfigurationError(
                f"{what} has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: make it smaller first"
            )
        try:
            media_type = _media_type(data)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what} is {error}") from None
        return cls(f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}")

    def to_wire(self) -> dict[str, Any]:
        """The ``image_url`` part."""
        return {"type": "image_url", "image_url": {"url": self.url}}
