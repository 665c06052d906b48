"""Questions about pictures and sound."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from .question import Context, Question


def ask_image(context: Context) -> None:
    """Whether a picture is taken, and seen."""
    url = f"data:image/png;base64,{base64.b64encode(red_square()).decode()}"
    parts = [
        {"type": "text", "text": "What colour is this picture? Answer with one word."},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    _ask(context, "images", parts, "red")


def ask_audio(context: Context) -> None:
    """Whether sound is taken; the clip is silent."""
    data = base64.b64encode(silence()).decode()
    parts = [
        {"type": "text", "text": "What do you hear? Answer with one word."},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
    ]
    _ask(context, "audio", parts, "silen")


def _ask(context: Context, name: str, parts: list[Any], expected: str) -> None:
    answer = context.chat([{"role": "user", "content": parts}])
    if not answer.ok:
        context.found(name, "no", answer.refusal)
    elif expected in answer.text.lower():
        context.found(name, "yes")
    else:
        context.found(name, "unclear", "taken; the answer does not show that the model perceives it")


def red_square(size: int = 32) -> bytes:
    """A red picture, as a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def silence(seconds: float = 0.25, rate: int = 16000) -> bytes:
    """A silent clip, as a WAV."""
    samples = bytes(2 * int(seconds * rate))
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


QUESTIONS = (
    Question(names=("images",), ask=ask_image, requests=1, group="pictures and sound", needs="chat"),
    Question(names=("audio",), ask=ask_audio, requests=1, group="pictures and sound", needs="chat"),
)
