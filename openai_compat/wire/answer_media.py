"""What an answer may hold beside text: speech, pictures, annotations."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from .._json import as_int, as_mapping, as_text
from .._rich_display import RichDisplay
from .media import Image
from .media_source import PathLike
from .media_types import audio_format


@attrs.frozen(kw_only=True)
class AnswerAudio(RichDisplay):
    """A spoken answer: ``data`` is base64 as it came, ``transcript`` what is said.

    ``id`` stands for it in a later turn, until ``expires_at`` (POSIX time in seconds; None where the server said none).
    """

    id: str = ""
    data: str = attrs.field(default="", repr=lambda data: f"<{len(data)} characters>")
    transcript: str = ""
    expires_at: int | None = None

    @classmethod
    def from_wire(cls, value: Any) -> AnswerAudio | None:
        """Read an ``audio`` object; None where there is no sound and no transcript in it."""
        audio = as_mapping(value)
        made = cls(
            id=as_text(audio.get("id")),
            data=as_text(audio.get("data")),
            transcript=as_text(audio.get("transcript")),
            expires_at=as_int(audio.get("expires_at")),
        )
        return made if made.data or made.transcript or made.id else None

    @property
    def content(self) -> bytes:
        """The sound, decoded; in the format that was asked for.

        Raises:
            ValueError: ``data`` is not base64.
        """
        # Pieces that were padded each by itself are decoded each by itself.
        return b"".join(base64.b64decode(piece, validate=True) for piece in re.findall(r"[^=]+=*", self.data))

    @property
    def format(self) -> str:
        """``"wav"``, ``"mp3"``, ..., inferred from the content; empty for raw samples."""
        return audio_format(self.content[:64]) or ""

    def save(self, path: str | PathLike) -> None:
        """Write ``content`` to a file."""
        Path(path).write_bytes(self.content)


@attrs.frozen(kw_only=True)
class AudioDelta:
    """A piece of a spoken answer: of its base64 ``data``, of its ``transcript``, or both."""

    id: str = ""
    data: str = attrs.field(default="", repr=lambda data: f"<{len(data)} characters>")
    transcript: str = ""

    @classmethod
    def from_wire(cls, value: Any) -> AudioDelta:
        """Read an ``audio`` object of a delta."""
        audio = as_mapping(value)
        return cls(
            id=as_text(audio.get("id")), data=as_text(audio.get("data")), transcript=as_text(audio.get("transcript"))
        )


@attrs.frozen(kw_only=True)
class Annotation:
    """A remark on the answer's text, mostly a source: ``start`` and ``end`` are places in the text, None where unknown.

    ``raw`` is the annotation as it came.
    """

    type: str = ""
    url: str = ""
    title: str = ""
    start: int | None = None
    end: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_wire(cls, value: Any) -> Annotation:
        """Read an entry of ``annotations``."""
        entry = as_mapping(value)
        kind = as_text(entry.get("type"))
        inner = as_mapping(entry.get(kind)) or entry
        return cls(
            type=kind,
            url=as_text(inner.get("url")),
            title=as_text(inner.get("title")),
            start=as_int(inner.get("start_index")),
            end=as_int(inner.get("end_index")),
            raw=entry,
        )


_PICTURES = ("", "image", "image_url", "input_image", "output_image")
"""Types of entries whose ``url`` is a picture's; a source or a document has one too."""


def images_of(entries: Any) -> tuple[Image, ...]:
    """The pictures in a list of entries or content parts, in their order."""
    found = [picture(entry) for entry in entries] if isinstance(entries, (list, tuple)) else []
    return tuple(image for image in found if image is not None)


def picture(entry: Any) -> Image | None:
    """The picture in an entry of ``images``, or in a content part; None where there is none."""
    if isinstance(entry, str):
        url = entry
    else:
        fields = as_mapping(entry)
        image = fields.get("image_url")
        if image is None and as_text(fields.get("type")) in _PICTURES:
            image = fields.get("url")
        url = as_text(as_mapping(image).get("url") if isinstance(image, dict) else image)
        if data := as_text(fields.get("b64_json") or fields.get("image_base64")):
            url = f"data:image/png;base64,{data}"
    return Image(url) if url else None


def annotations_of(entries: Any) -> tuple[Annotation, ...]:
    """The annotations of an answer."""
    listed: Iterable[Any] = entries if isinstance(entries, (list, tuple)) else ()
    return tuple(Annotation.from_wire(entry) for entry in listed if isinstance(entry, dict))
