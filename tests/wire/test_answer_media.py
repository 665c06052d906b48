"""Answers of speech, pictures and annotations."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from openai_compat.errors import ConfigurationError
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.answer_media import Annotation, AnswerAudio, AudioDelta, picture
from openai_compat.wire.completeness import completeness_error
from openai_compat.wire.media import Image
from openai_compat.wire.response import ChatResponse, StreamEvent

PNG = "data:image/png;base64,iVBORw0KGgo="
CITED = {"type": "url_citation", "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 2}}


def run(*deltas: Any, key: str = "delta") -> tuple[list[StreamEvent], ChatResponse]:
    accumulator = Accumulator()
    events = [event for delta in deltas for event in accumulator.feed({"choices": [{key: delta}]})]
    return events + accumulator.finish(), accumulator.response()


def test_a_spoken_answer() -> None:
    events, answer = run({"audio": {"id": "a", "data": "UklG"}}, {"audio": {"data": "Rg==", "transcript": "Hi."}})
    assert [event.audio for event in events] == [
        AudioDelta(id="a", data="UklG"),
        AudioDelta(data="Rg==", transcript="Hi."),
    ]
    assert answer.audio == AnswerAudio(id="a", data="UklGRg==", transcript="Hi.")
    assert answer.audio.content == b"RIFF"
    assert completeness_error(answer, complete=True, strict=True) is None
    assert answer.text == ""
    assert answer.to_message().to_wire()["audio"] == {"id": "a"}
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_speech_without_an_id_is_not_sent_back() -> None:
    assert "audio" not in run({"audio": {"data": "AAAA"}})[1].to_message().to_wire()


def test_an_empty_audio_object_is_nothing() -> None:
    events, answer = run({"audio": {}}, {"content": "x"})
    assert ([event.kind for event in events], answer.audio) == (["text"], None)
    assert "audio" not in answer.to_message().to_wire()


def test_pieces_that_were_padded_each_are_one_sound(tmp_path: Path) -> None:
    audio = AnswerAudio(data="UklGRg==" + "AAA=" + "V0FWRQ==")
    assert audio.content == b"RIFF\0\0WAVE"
    audio.save(tmp_path / "x.wav")
    assert (tmp_path / "x.wav").read_bytes() == audio.content


def test_pictures_in_deltas() -> None:
    events, answer = run({"content": "", "images": [{"type": "image_url", "image_url": {"url": PNG}, "index": 0}]})
    assert [event.image for event in events] == [Image(PNG)]
    assert answer.images == (Image(PNG),)
    assert completeness_error(answer, complete=True, strict=True) is None


def test_a_source_with_a_url_is_no_picture() -> None:
    events, answer = run({"content": [{"type": "text", "text": "A"}, {"type": "tool_reference", "url": "https://a"}]})
    assert (answer.text, answer.images, [event.kind for event in events]) == ("A", (), ["text"])
    assert answer.choices[0].parts[1] == {"type": "tool_reference", "url": "https://a"}


def test_content_parts_are_kept_in_their_order() -> None:
    parts = [
        {"type": "text", "text": "A:"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "!"},
    ]
    for _, answer in (run({"content": parts}, key="message"), run(*({"content": [part]} for part in parts))):
        assert (answer.text, answer.images) == ("A:!", (Image(PNG),))
        assert answer.to_message().to_wire()["content"] == parts
    assert run({"content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]})[1].choices[0].parts == ()


def test_annotations() -> None:
    events, answer = run({"content": "Hi", "annotations": [CITED]})
    wanted = Annotation(type="url_citation", url="https://a", title="A", start=0, end=2)
    assert [event.annotation for event in events if event.annotation] == [wanted]
    assert answer.annotations == (wanted,)
    assert answer.annotations[0].raw == CITED


def test_annotations_alone_are_no_answer() -> None:
    assert completeness_error(run({"annotations": [CITED]})[1], complete=True, strict=False) is not None


def test_a_picture_can_be_saved_and_sent_back(tmp_path: Path) -> None:
    Image(PNG).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == Image(PNG).content == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ConfigurationError, match="not here but at https://a"):
        _ = Image("https://a").content


PICTURES: dict[str, tuple[Any, str | None]] = {
    "url": ("https://a", "https://a"),
    "part": ({"type": "image_url", "image_url": {"url": "https://a"}}, "https://a"),
    "part-with-a-plain-url": ({"type": "image_url", "image_url": "https://a"}, "https://a"),
    "flat": ({"type": "image", "url": "https://a"}, "https://a"),
    "base64": ({"b64_json": "iVBORw0KGgo="}, PNG),
    "base64-by-another-name": ({"image_base64": "iVBORw0KGgo="}, PNG),
    "link": ({"type": "link", "url": "https://a"}, None),
    "nothing": (7, None),
}


@pytest.mark.parametrize(("entry", "url"), PICTURES.values(), ids=PICTURES)
def test_where_a_picture_stands(entry: Any, url: str | None) -> None:
    found = picture(entry)
    assert (found.url if found is not None else None) == url


def test_what_a_server_says_of_a_choice_is_kept_and_not_sent_back() -> None:
    accumulator = Accumulator()
    accumulator.feed({"choices": [{"delta": {"content": "x"}}]})
    accumulator.feed(
        {"choices": [{"delta": {}, "finish_reason": "stop", "native_finish_reason": "END", "stop_reason": 7}]}
    )
    (choice,) = accumulator.response().choices
    assert choice.fields == {"native_finish_reason": "END", "stop_reason": 7}
    assert "native_finish_reason" not in accumulator.response().to_message().to_wire()
