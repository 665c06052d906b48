"""What kind of picture or sound bytes are, by how they begin.

By hand, as ``imghdr`` and ``sndhdr`` have left the standard library, and packages that know hundreds of formats find
some in plain text, or name what no server takes.
"""

from __future__ import annotations

_IMAGE_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def image_type(data: bytes) -> str | None:
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
