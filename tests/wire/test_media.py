"""Images and audio: what becomes of the things that callers have."""

from __future__ import annotations

import base64
import io
import os
import pickle
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import matplotlib.figure
import msgspec
import numpy
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.arbitrary import quick

from openai_compat.errors import ConfigurationError
from openai_compat.wire import media
from openai_compat.wire.media import MAX_AUDIO_BYTES, MAX_IMAGE_BYTES, Audio, Image

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
MP3 = b"ID3" + b"rest"


def content(value: Image | Audio) -> bytes:
    """The bytes that are sent."""
    return base64.b64decode(value.url.partition(",")[2] if isinstance(value, Image) else value.data, validate=True)


def picture(value: Image) -> PIL.Image.Image:
    """What a server would see."""
    opened = PIL.Image.open(io.BytesIO(content(value)))
    opened.load()
    return opened


def pillow(format: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, (3, 2), 1).save(buffer, format, **options)
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16))
    return buffer.getvalue()


# What the content shows

IMAGES: dict[str, tuple[bytes, str]] = {
    "png": (pillow("PNG"), "image/png"),
    "jpeg": (pillow("JPEG"), "image/jpeg"),
    "gif": (pillow("GIF"), "image/gif"),
    "webp": (pillow("WEBP"), "image/webp"),
    "webp-lossless": (pillow("WEBP", lossless=True), "image/webp"),
    "bmp": (pillow("BMP"), "image/bmp"),
    "tiff": (pillow("TIFF"), "image/tiff"),
    "gif89": (b"GIF89arest", "image/gif"),
    "tiff-big": (b"MM\x00*rest", "image/tiff"),
    "avif": (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf", "image/avif"),
    "avis": (b"\x00\x00\x00\x1cftypavis\x00\x00\x00\x00msf1miafavis", "image/avif"),
    "avif-of-mif1": (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00miafavifmif1", "image/avif"),
    "heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "image/heic"),
    "mif1": (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "image/heic"),
    "heic-then-avif": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heicavif", "image/heic"),
}


@pytest.mark.parametrize(("data", "media_type"), IMAGES.values(), ids=IMAGES)
def test_bytes_become_a_data_url_of_their_media_type(data: bytes, media_type: str) -> None:
    wanted = Image(f"data:{media_type};base64,{base64.b64encode(data).decode()}")
    assert Image.of(data) == Image.of(bytearray(data)) == Image.of(memoryview(data)) == Image.from_bytes(data) == wanted
    assert Image.of(io.BytesIO(data)) == wanted


AUDIO: dict[str, tuple[bytes, str]] = {
    "wav": (wav(), "wav"),
    "wav-of-64-bits": (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
    "mp3-tagged": (b"ID3\x04\x00rest", "mp3"),
    "mp3": (b"\xff\xfb\x90\x64rest", "mp3"),
    "mp3-with-crc": (b"\xff\xfa\x90\x64rest", "mp3"),
    "mp3-version-2": (b"\xff\xf3\x90\x64rest", "mp3"),
    "mp3-version-2.5": (b"\xff\xe3\x90\x64rest", "mp3"),
    "mp2": (b"\xff\xfd\x90\x64rest", "mp3"),
    "aac": (b"\xff\xf1\x50\x80rest", "aac"),
    "aac-version-2": (b"\xff\xf9\x50\x80rest", "aac"),
    "flac": (b"fLaC\x00rest", "flac"),
    "ogg": (b"OggS\x00rest", "ogg"),
    "m4a": (b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00rest", "m4a"),
    "mp4": (b"\x00\x00\x00\x20ftypmp42\x00\x00\x00\x00rest", "m4a"),
    "isom": (b"\x00\x00\x00\x20ftypisom\x00\x00\x00\x00rest", "m4a"),
    "webm": (b"\x1aE\xdf\xa3rest", "webm"),
    "aiff": (b"FORM\x00\x00\x00\x00AIFFCOMM", "aiff"),
    "aifc": (b"FORM\x00\x00\x00\x00AIFCFVER", "aiff"),
}


@pytest.mark.parametrize(("data", "format"), AUDIO.values(), ids=AUDIO)
def test_audio_bytes_are_sent_with_their_format(data: bytes, format: str) -> None:
    wanted = Audio(base64.b64encode(data).decode(), format)
    assert Audio.of(data) == Audio.of(bytearray(data)) == Audio.of(memoryview(data)) == Audio.from_bytes(data) == wanted
    assert Audio.of(io.BytesIO(data)) == wanted
    assert wanted.to_wire() == {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(data).decode(), "format": format},
    }


NEITHER: dict[str, bytes] = {
    "text": b"hello, world",
    "text-that-begins-like-a-bitmap": b"BMW is a make of cars",
    "utf-16": "hello, world".encode("utf-16"),
    "utf-8-with-mark": "hello, world".encode("utf-8-sig"),
    "riff": b"RIFF\x00\x00\x00\x00AVI LIST",
    "riff-cut": b"RIFF\x00\x00\x00\x00",
    "iff": b"FORM\x00\x00\x00\x00ILBM",
    "quicktime": b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ",
    "ftyp-alone": b"\x00\x00\x00\x08ftyp",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.7",
    "zip": b"PK\x03\x04",
    "one-byte": b"\xff",
    "reserved-frame": b"\xff\xe1\x90\x64",
}


@pytest.mark.parametrize("data", NEITHER.values(), ids=NEITHER)
def test_what_is_neither_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"the image is not an image that is known .*its media_type"):
        Image.of(data)
    with pytest.raises(ConfigurationError, match=r"the audio clip is not audio that is known .*its format"):
        Audio.of(data)


@pytest.mark.parametrize("data", [data for data, _ in IMAGES.values()], ids=IMAGES)
def test_an_image_is_no_audio(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="is not audio that is known"):
        Audio.of(data)


@pytest.mark.parametrize("data", [data for data, _ in AUDIO.values()], ids=AUDIO)
def test_audio_is_no_image(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="is not an image that is known"):
        Image.of(data)


HEADS = [*(data for data, _ in (*IMAGES.values(), *AUDIO.values())), b"\xff\xff", b"\x00\x00\x00\x18ftyp", b""]


@quick
@given(st.builds(lambda head, cut, rest: head[:cut] + rest, st.sampled_from(HEADS), st.integers(0, 40), st.binary()))
def test_any_bytes_are_known_or_refused(data: bytes) -> None:
    with suppress(ConfigurationError):
        image = Image.of(data)
        assert image.url.partition(";")[0].removeprefix("data:") in {known for _, known in IMAGES.values()}
        assert content(image) == data
    with suppress(ConfigurationError):
        clip = Audio.of(data)
        assert clip.format in {known for _, known in AUDIO.values()}
        assert content(clip) == data


def test_a_media_type_is_for_what_the_content_does_not_show() -> None:
    svg = NEITHER["svg"]
    assert Image.from_bytes(svg, media_type="image/svg+xml").url.startswith("data:image/svg+xml;base64,PHN2")
    assert Image.from_bytes(PNG, media_type="image/jpeg") == Image.of(PNG)
    assert Audio.from_bytes(svg, format="pcm16") == Audio(base64.b64encode(svg).decode(), "pcm16")
    assert Audio.from_bytes(MP3, format="wav") == Audio.of(MP3)


@pytest.mark.parametrize("media_type", ["", "svg", "text/plain", "image/", "image/png;x", "image/png\n", "image/a,b"])
def test_a_media_type_is_one_of_an_image(media_type: str) -> None:
    for data in (PNG, NEITHER["svg"]):
        with pytest.raises(ConfigurationError, match="media_type must be like 'image/svg"):
            Image.from_bytes(data, media_type=media_type)


# URLs

OTHER_URLS = ["https://h/a.png", "http://h/a.png", "HTTPS://h/a", "https://h", "http://127.0.0.1:8000/a?b=c#d"]


@pytest.mark.parametrize("url", OTHER_URLS)
def test_a_string_is_a_url(url: str) -> None:
    assert Image.of(url) == Image.from_url(url) == Image(url)
    assert Image.of(url).to_wire() == {"type": "image_url", "image_url": {"url": url}}
    assert Audio.of(url) == Audio.from_url(url) == Audio(url=url)
    assert Audio.of(url).to_wire() == {"type": "audio_url", "audio_url": {"url": url}}


class PathLikeText(str):
    """A string that claims to be a path, too."""

    __slots__ = ()

    def __fspath__(self) -> str:
        return str(self)


NO_URLS = [
    "/etc/passwd",
    "a.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "C:\\a.png",
    "~/a.png",
    "",
    " https://h/a.png",
    "ftp://h/a.png",
    "http:a.png",
    "https:///etc/passwd",
    "http://",
    "data",
    "iVBORw0KGgo=",
    PathLikeText("/etc/passwd"),
]


@pytest.mark.parametrize("text", NO_URLS)
@pytest.mark.parametrize("kind", [Image, Audio])
def test_a_string_is_never_a_path(text: str, kind: Any) -> None:
    advice = rf"must be an http, https or data URL, not .*give a pathlib\.Path or call {kind.__name__}\.from_path"
    with pytest.raises(ConfigurationError, match=advice):
        kind.of(text)
    with pytest.raises(ConfigurationError, match=advice):
        kind.from_url(text)


@pytest.mark.parametrize("kind", [Image, Audio])
def test_the_name_of_a_file_that_is_there_is_no_exception(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(PNG if kind is Image else MP3)
    assert kind.of(Path("a")) == kind.from_path("a")
    for name in ("a", "./a", str(tmp_path / "a"), (tmp_path / "a").as_uri()):
        with pytest.raises(ConfigurationError, match="must be an http, https or data URL"):
            kind.of(name)


@pytest.mark.parametrize("value", [None, 7, b"https://h/a", Path("https://h/a")], ids=repr)
@pytest.mark.parametrize("kind", [Image, Audio])
def test_a_url_is_a_string(kind: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be an http, https or data URL"):
        kind.from_url(value)


DATA_URLS = [
    "data:image/png;base64,AAAA",
    "data:image/svg+xml;base64,AA==",
    "DATA:IMAGE/PNG;BASE64,AAA=",
    "data:image/png;charset=utf-8;name=a.png;base64,AAAA",
]


@pytest.mark.parametrize("url", DATA_URLS)
def test_a_data_url_of_an_image_is_sent_as_it_is(url: str) -> None:
    assert Image.of(url) == Image(url)


def clip_url(media_type: str, data: bytes = b"unknown") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


DATA_CLIPS: dict[str, tuple[str, str]] = {
    "wav": (clip_url("audio/wav", wav()), "wav"),
    "content-wins": (clip_url("audio/mpeg", wav()), "wav"),
    "recorder": (clip_url("audio/webm;codecs=opus", b"\x1aE\xdf\xa3"), "webm"),
    "upper-case": (clip_url("AUDIO/MPEG"), "mp3"),
    "x-wav": (clip_url("audio/x-wav"), "wav"),
    "wave": (clip_url("audio/wave"), "wav"),
    "vnd.wave": (clip_url("audio/vnd.wave"), "wav"),
    "mpeg": (clip_url("audio/mpeg"), "mp3"),
    "mp4": (clip_url("audio/mp4"), "m4a"),
    "x-m4a": (clip_url("audio/x-m4a"), "m4a"),
    "other": (clip_url("audio/amr"), "amr"),
}


@pytest.mark.parametrize(("url", "format"), DATA_CLIPS.values(), ids=DATA_CLIPS)
def test_a_data_url_of_audio_is_taken_apart(url: str, format: str) -> None:
    assert Audio.of(url) == Audio(url.partition(",")[2], format)


BROKEN: dict[str, tuple[str, str]] = {
    "no-base64": ("data:{type},AAAA", "looks like 'data:{type};base64,...', not "),
    "percent": ("data:{type};utf8,%3Csvg", "looks like"),
    "no-type": ("data:;base64,AAAA", "looks like"),
    "no-comma": ("data:{type};base64", "looks like"),
    "text": ("data:text/html;base64,AAAA", "looks like"),
    "half-a-type": ("data:{half};base64,AAAA", "looks like"),
    "nothing": ("data:", "looks like"),
    "alphabet": ("data:{type};base64,AA*A", "is not valid base64"),
    "url-alphabet": ("data:{type};base64,AA-_", "is not valid base64"),
    "spaces": ("data:{type};base64,AAAA AAAA", "is not valid base64"),
    "line-end": ("data:{type};base64,AAAA\n", "is not valid base64"),
    "padding": ("data:{type};base64,AAA", "is not valid base64"),
    "accents": ("data:{type};base64,AAAé", "is not valid base64"),
    "surrogate": ("data:{type};base64,AAA\ud800", "is not valid base64"),
    "empty": ("data:{type};base64,", "is empty"),
}


@pytest.mark.parametrize(("url", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(("kind", "example"), [(Image, "image/png"), (Audio, "audio/wav")])
def test_a_broken_data_url_is_refused(kind: Any, example: str, url: str, message: str) -> None:
    fill = {"type": example, "half": example.partition("/")[0]}
    with pytest.raises(ConfigurationError, match=message.format(**fill)):
        kind.of(url.format(**fill))


def test_a_data_url_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a data URL for the image looks like"):
        Image.of("data:audio/wav;base64,AAAA")
    with pytest.raises(ConfigurationError, match="a data URL for the audio clip looks like"):
        Audio.of("data:image/png;base64,AAAA")


@quick
@given(st.text(max_size=60), st.sampled_from(["", "data:", "data:image/png;base64,", "data:audio/wav;", "https://"]))
def test_any_text_is_a_url_or_refused(text: str, head: str) -> None:
    for kind in (Image, Audio):
        with suppress(ConfigurationError):
            value = kind.of(head + text)
            assert value.url == head + text or content(value)


# Files


@pytest.mark.parametrize(("kind", "data"), [(Image, PNG), (Audio, MP3)])
def test_a_file_is_read(kind: Any, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    (entry,) = os.scandir(tmp_path)
    (tmp_path / "link").symlink_to(path)
    for given_path in (path, entry, tmp_path / "link"):
        assert kind.of(given_path) == kind.from_path(given_path) == kind.of(data)
    assert kind.from_path(str(path)) == kind.of(data)
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        assert kind.of(buffered) == kind.of(raw) == kind.of(data)
    with tempfile.NamedTemporaryFile() as wrapper:
        wrapper.write(data)
        wrapper.seek(0)
        assert kind.of(wrapper) == kind.of(data)


class Dribble:
    """A file that gives a byte at a time, and has its ``read`` from elsewhere, as upload wrappers do."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def __getattr__(self, name: str) -> Any:
        if name != "read":
            raise AttributeError(name)
        return lambda size: self._data.read(min(size, 1))


@pytest.mark.parametrize(("kind", "data"), [(Image, PNG), (Audio, MP3)])
def test_a_file_may_give_less_than_asked_for(kind: Any, data: bytes) -> None:
    assert kind.of(Dribble(data)) == kind.of(data)


def test_a_file_is_read_from_where_it_stands() -> None:
    assert Image.of(_at(io.BytesIO(b"head" + PNG), 4)) == Image.of(PNG)
    with pytest.raises(ConfigurationError, match="the image is empty"):
        Image.of(_at(io.BytesIO(PNG), len(PNG)))


def _at(file: io.BytesIO, place: int) -> io.BytesIO:
    file.seek(place)
    return file


@pytest.mark.parametrize(("kind", "noun"), [(Image, "image"), (Audio, "audio clip")])
def test_a_file_that_cannot_be_read_is_named(kind: Any, noun: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot read the {noun} '.*missing': No such file") as caught:
        kind.of(tmp_path / "missing")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ConfigurationError, match=rf"cannot read the {noun} '.*': it is a directory"):
        kind.of(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"cannot read the {noun} 'a\\x00b': "):
        kind.of(Path("a\0b"))
    (tmp_path / "notes.txt").write_text("hello, world")
    with pytest.raises(ConfigurationError, match=rf"the {noun} '.*notes\.txt' is not .* that is known"):
        kind.of(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigurationError, match=rf"the {noun} '.*notes\.txt' is empty"):
        kind.of(tmp_path / "notes.txt")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.png").write_bytes(PNG)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot read the image '.*x\.png': Permission denied"):
        Image.of(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [Image, Audio])
@pytest.mark.parametrize("path", [7, 0, None, b"a", object()])
def test_a_path_is_text_or_path_like(kind: Any, path: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the "):
        kind.from_path(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [Image, Audio])
def test_a_special_file_is_refused_and_not_read_for_ever(kind: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ConfigurationError, match="cannot read .* not a regular file"):
            kind.of(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("buffering", [0, -1])
def test_an_endless_file_object_is_not_read_for_ever(buffering: int) -> None:
    with open("/dev/zero", "rb", buffering=buffering) as file:
        with pytest.raises(ConfigurationError, match="the image has more than 20,971,520 bytes; the limit is "):
            Image.of(file)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a file of unknown size")
def test_a_file_that_is_longer_than_it_says_is_limited_all_the_same() -> None:
    assert Path("/proc/self/stat").stat().st_size == 0
    with pytest.raises(ConfigurationError, match="'/proc/self/stat' has more than 8 bytes; the limit is 8: "):
        Image.from_path("/proc/self/stat", max_bytes=8)


class Broken:
    """A file whose ``read`` raises, or gives something else than bytes."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    def read(self, size: int = -1) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def closed() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.close()
    return file


BAD_FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (lambda: io.StringIO("x"), r"a file opened in binary mode \('rb'\): read\(\) gave str"),
    "empty-text": (io.StringIO, "opened in binary mode"),
    "closed": (closed, "cannot read the .*: I/O operation on closed file"),
    "disk": (lambda: Broken(OSError(5, "Input/output error")), "cannot read the .*: Input/output error"),
    "would-block": (lambda: Broken(None), "gave NoneType"),
    "no-size": (lambda: type("F", (), {"read": lambda self: PNG})(), "cannot read the "),
}


@pytest.mark.parametrize("kind", [Image, Audio])
@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_object_that_does_not_read_is_refused(kind: Any, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind.of(make())


def test_a_file_in_text_mode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as text, (tmp_path / "y").open("wb") as written:
        with pytest.raises(ConfigurationError, match="opened in binary mode"):
            Image.of(text)
        with pytest.raises(ConfigurationError, match="cannot read the image: "):
            Image.of(written)


# Sizes


def sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head", "limit"), [(Image, PNG, MAX_IMAGE_BYTES), (Audio, MP3, MAX_AUDIO_BYTES)])
def test_size_is_limited(kind: Any, head: bytes, limit: int, tmp_path: Path) -> None:
    fits = head + bytes(limit - len(head))
    assert len(content(kind.of(fits))) == limit
    assert kind.of(io.BytesIO(fits)) == kind.of(sparse(tmp_path / "fits", head, limit)) == kind.of(fits)
    both = f"has {limit + 1:,} bytes; the limit is {limit:,}: make it smaller first, or raise max_bytes"
    for value in (fits + b"x", memoryview(fits + b"x"), sparse(tmp_path / "over", head, limit + 1)):
        with pytest.raises(ConfigurationError, match=both):
            kind.of(value)
    with pytest.raises(ConfigurationError, match=f"has more than {limit:,} bytes; the limit is {limit:,}: make it"):
        kind.of(io.BytesIO(fits + b"x"))


def test_the_limits_are_openais() -> None:
    assert (media.MAX_IMAGE_BYTES, media.MAX_AUDIO_BYTES) == (20_971_520, 26_214_400)


@pytest.mark.parametrize(("kind", "media_type"), [(Image, "image/png"), (Audio, "audio/wav")])
@pytest.mark.parametrize("rest", range(3))
def test_size_is_limited_in_data_urls_too(
    kind: Any, media_type: str, rest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 9 + rest
    monkeypatch.setattr(media, "MAX_IMAGE_BYTES", limit)
    monkeypatch.setattr(media, "MAX_AUDIO_BYTES", limit)
    assert content(kind.of(clip_url(media_type, bytes(limit)))) == bytes(limit)
    with pytest.raises(ConfigurationError, match=f"has {limit + 1} bytes; the limit is {limit}: "):
        kind.of(clip_url(media_type, bytes(limit + 1)))


@pytest.mark.parametrize(("kind", "data"), [(Image, PNG), (Audio, MP3)])
def test_the_limit_may_be_moved(kind: Any, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert kind.from_bytes(data, max_bytes=len(data)) == kind.from_path(path, max_bytes=len(data)) == kind.of(data)
    for make in (lambda **limit: kind.from_bytes(data, **limit), lambda **limit: kind.from_path(path, **limit)):
        with pytest.raises(ConfigurationError, match=f"has {len(data)} bytes; the limit is {len(data) - 1}: "):
            make(max_bytes=len(data) - 1)


def test_a_file_that_is_too_large_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse(tmp_path / "x", PNG, 10 * MAX_IMAGE_BYTES)
    monkeypatch.setattr(Path, "open", lambda *args, **options: pytest.fail("opened"))
    with pytest.raises(ConfigurationError, match="has 209,715,200 bytes"):
        Image.of(path)


# Pillow and Matplotlib

MODES: dict[str, str] = {
    "1": "1",
    "L": "L",
    "LA": "LA",
    "P": "P",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "I;16": "I;16",
    "I": "RGB",
    "F": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "PA": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGB",
}


@pytest.mark.parametrize(("mode", "sent"), MODES.items(), ids=MODES)
def test_a_pillow_image_is_sent_as_png(mode: str, sent: str) -> None:
    image = PIL.Image.new(mode, (3, 2))
    seen = picture(Image.of(image))
    assert (seen.format, seen.mode, seen.size) == ("PNG", sent, (3, 2))
    assert (image.mode, image.format) == (mode, None)


def test_a_pillow_image_keeps_its_pixels() -> None:
    pixels = numpy.arange(4 * 5 * 3, dtype="uint8").reshape(4, 5, 3)
    assert (numpy.asarray(picture(Image.of(PIL.Image.fromarray(pixels)))) == pixels).all()
    cmyk = PIL.Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert picture(Image.of(cmyk)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("format", "sent"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "PNG"), ("WEBP", "PNG"), ("BMP", "PNG"), ("MPO", "JPEG")],
)
def test_a_pillow_image_that_was_opened_is_sent_as_jpeg_or_png(format: str, sent: str) -> None:
    options = {"save_all": True, "append_images": [PIL.Image.new("RGB", (3, 2))]} if format == "MPO" else {}
    with PIL.Image.open(io.BytesIO(pillow(format, **options))) as opened:
        assert opened.format == format
        assert Image.of(opened).url.startswith(f"data:image/{sent.lower()};")
        assert picture(Image.of(opened)).format == sent
        assert Image.of(opened.copy()).url.startswith("data:image/png;")


@pytest.mark.parametrize(("mode", "sent"), [("L", "L"), ("RGB", "RGB"), ("CMYK", "RGB")])
def test_a_jpeg_is_sent_in_a_mode_that_all_read(mode: str, sent: str) -> None:
    with PIL.Image.open(io.BytesIO(pillow("JPEG", mode))) as opened:
        seen = picture(Image.of(opened))
    assert (seen.format, seen.mode) == ("JPEG", sent)


def test_a_pillow_image_that_only_says_it_is_a_jpeg_is_made_one() -> None:
    image = PIL.Image.new("RGBA", (3, 2))
    image.format = "JPEG"
    assert (picture(Image.of(image)).format, picture(Image.of(image)).mode) == ("JPEG", "RGB")


def test_a_pillow_image_that_cannot_be_encoded_is_refused() -> None:
    cut = PIL.Image.open(io.BytesIO(pillow("PNG")[:50]))
    for image in (PIL.Image.new("RGB", (0, 0)), cut):
        with pytest.raises(ConfigurationError, match="the Pillow image cannot be encoded: ") as caught:
            Image.of(image)
        assert caught.value.__cause__ is not None


@pytest.mark.slow
def test_an_encoded_pillow_image_is_limited_too() -> None:
    noise = PIL.Image.frombytes("RGB", (2700, 2700), os.urandom(2700 * 2700 * 3))
    with pytest.raises(
        ConfigurationError, match=r"has 2\d,\d{3},\d{3} bytes; the limit is 20,971,520: make it smaller"
    ):
        Image.of(noise)


@pytest.fixture
def figure() -> Iterator[Figure]:
    figure = Figure(figsize=(2, 1), dpi=50)
    FigureCanvasAgg(figure)
    figure.subplots().plot([1, 2], [3, 4])
    yield figure
    figure.clear()


def test_a_figure_is_sent_as_png_of_what_is_drawn(figure: Figure) -> None:
    seen = picture(Image.of(figure))
    assert seen.format == "PNG"
    assert len(seen.convert("RGB").getcolors() or ()) > 1
    figure.clear()
    figure.text(0.5, 0.5, "x")
    assert picture(Image.of(figure)).width < seen.width / 2, "the margins are cut off"
    assert tuple(figure.get_size_inches()) == (2, 1)


def test_a_figure_of_a_subclass_is_one_too() -> None:
    figure = type("MyFigure", (Figure,), {})(figsize=(1, 1))
    figure.text(0.5, 0.5, "x")
    assert picture(Image.of(figure)).format == "PNG"


def test_a_figure_that_cannot_be_drawn_is_refused(figure: Figure) -> None:
    figure.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ConfigurationError, match=r"the Matplotlib figure cannot be drawn: (?s:.*)nonsense"):
        Image.of(figure)


def test_what_is_an_image_by_its_type(figure: Figure) -> None:
    assert all(map(Image.is_one, [Image("https://h/a"), PIL.Image.new("L", (1, 1)), figure]))
    assert not any(
        map(Image.is_one, ["https://h/a", Path("a.png"), PNG, io.BytesIO(PNG), None, 7, Audio.of(MP3), Image])
    )


FRESH = """
import io, sys
from openai_compat import Audio, ChatRequest, ConfigurationError, Image, build_messages

build_messages(ChatRequest("hi", images=[b"\\xff\\xd8\\xff", io.BytesIO(b"GIF89a"), "https://h/a"], audio=b"ID3"))
for value in (7, object(), [], "a.png"):
    for take in (Image.of, Audio.of):
        try:
            take(value)
        except ConfigurationError:
            pass
        else:
            raise AssertionError(value)
assert not Image.is_one(object())
print(*sorted({"PIL", "matplotlib", "numpy", "mimetypes", "openai_compat.wire.media"} & set(sys.modules)))
"""


def test_nothing_optional_is_loaded() -> None:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", FRESH], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("openai_compat.wire.media\n", "")


# Values

REFUSED: dict[str, Any] = {
    "number": 7,
    "none": None,
    "dict": {"type": "image_url"},
    "list": [PNG],
    "array": numpy.zeros((2, 2, 3), "uint8"),
    "class": PIL.Image.Image,
    "lookalike": type("Image", (), {"save": None, "format": "PNG", "mode": "L"})(),
    "module": matplotlib.figure,
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_is_neither_image_nor_audio_is_refused(value: Any) -> None:
    name = type(value).__name__
    with pytest.raises(ConfigurationError, match=f"an image is a URL, a pathlib.Path, bytes, .* figure, not {name}"):
        Image.of(value)
    with pytest.raises(ConfigurationError, match=f"a URL, a pathlib.Path, bytes or a binary file, not {name}"):
        Audio.of(value)


def test_one_is_not_the_other() -> None:
    with pytest.raises(ConfigurationError, match="an image is .*, not Audio"):
        Image.of(Audio.of(MP3))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="an audio clip is .*, not Image"):
        Audio.of(Image.of(PNG))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [Image("https://h/a"), Image("gs://a/b"), Audio("AA==", "wav"), Audio(url="https://h/a")]
)
def test_what_is_one_already_stays_as_it_is(value: Any) -> None:
    assert type(value).of(value) is value


@pytest.mark.parametrize("data", [None, 7, "text", [1, 2]], ids=repr)
@pytest.mark.parametrize("kind", [Image, Audio])
def test_bytes_are_bytes(kind: Any, data: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"must be given as bytes, not {type(data).__name__}"):
        kind.from_bytes(data)


@pytest.mark.parametrize("data", [b"", bytearray(), memoryview(b""), io.BytesIO()], ids=type)
@pytest.mark.parametrize("kind", [Image, Audio])
def test_nothing_is_neither(kind: Any, data: Any) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        kind.of(data)


@pytest.mark.parametrize("detail", ["auto", "low", "high"])
def test_detail_is_sent_where_set(detail: Any, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PNG)
    for image in (
        Image("https://h/a", detail),
        Image.from_url("https://h/a", detail=detail),
        Image.from_bytes(PNG, detail=detail),
        Image.from_path(tmp_path / "x.png", detail=detail),
    ):
        assert image.to_wire() == {"type": "image_url", "image_url": {"url": image.url, "detail": detail}}
        assert Image.of(image).detail == detail
        assert "detail" not in attrs.evolve(image, detail=None).to_wire()["image_url"]


@pytest.mark.parametrize("detail", ["", "LOW", "medium", 1, True, []], ids=repr)
def test_another_detail_is_refused(detail: Any) -> None:
    for make in (lambda: Image("https://h/a", detail), lambda: Image.from_bytes(PNG, detail=detail)):
        with pytest.raises(ConfigurationError, match="detail must be 'auto', 'low' or 'high', not "):
            make()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": "AA=="},
        {"format": "wav"},
        {"data": "AA==", "url": "https://h/a"},
        {"format": "wav", "url": "https://h/a"},
        {"data": "AA==", "format": "wav", "url": "https://h/a"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_audio_is_data_with_a_format_or_a_url(fields: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="either data with its format, or a url"):
        Audio(**fields)


@pytest.mark.parametrize("value", [PNG, Path("a.png"), None, 7], ids=type)
def test_a_value_is_made_of_text(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=f"Image's url is a str, not {type(value).__name__}; Image.of takes it"
    ):
        Image(value)
    with pytest.raises(
        ConfigurationError, match=f"Audio's data is a str, not {type(value).__name__}; Audio.of takes it"
    ):
        Audio(value, "wav")


def test_reprs_are_short() -> None:
    assert repr(Image("https://h/a.png", "low")) == "Image(url='https://h/a.png', detail='low')"
    assert repr(Audio(url="https://h/a.wav")) == "Audio(data='', format='', url='https://h/a.wav')"
    for value in (Image.of(PNG + bytes(10_000)), Image.of("https://h/" + "a" * 10_000), Audio.of(MP3 + bytes(10_000))):
        assert len(repr(value)) < 130


@pytest.mark.parametrize("kind", [Image, Audio])
def test_errors_are_short(kind: Any) -> None:
    for text in ("data:" + "x" * 10_000, "x" * 10_000, "data:image/png;base64," + "*" * 10_000):
        with pytest.raises(ConfigurationError) as caught:
            kind.of(text)
        assert len(str(caught.value)) < 300


VALUES: dict[str, Any] = {
    "image": Image("https://h/a"),
    "detailed": Image.from_bytes(PNG, detail="high"),
    "audio": Audio.of(MP3),
    "audio-url": Audio(url="https://h/a"),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_survive_pickle_and_json(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
    assert len({value, attrs.evolve(value)}) == 1


def test_an_image_of_before_detail_can_still_be_read() -> None:
    assert msgspec.json.decode(b'{"url": "https://h/a"}', type=Image) == Image("https://h/a")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_are_frozen(value: Any) -> None:
    for name in attrs.fields_dict(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, name, None)
