"""What a caller hands over that others may have written: saved conversations, messages, pictures and sounds."""

from __future__ import annotations

import json
from typing import Any

from openai_compat import Conversation
from openai_compat.errors import ConfigurationError
from openai_compat.wire.media import Audio, Image
from openai_compat.wire.media_types import audio_format, image_type
from openai_compat.wire.request import ChatRequest, build_body

from .inputs import attempt, json_value, text


def _nobody(request: Any, **options: Any) -> Any:
    raise AssertionError("nothing is asked")


def conversation(data: bytes) -> None:
    """A saved conversation is loaded, and saved again as it was, or refused."""
    loaded = attempt(lambda: Conversation.from_json(data, _nobody), ConfigurationError)
    if isinstance(loaded, Conversation):
        saved = loaded.to_json()
        again = Conversation.from_json(saved, _nobody)
        assert again.to_json() == saved
        assert repr(again.messages) == repr(loaded.messages)


def messages(data: bytes) -> None:
    """Messages as dicts are taken and sent as JSON, or refused."""
    given = json_value(data)
    request = attempt(lambda: ChatRequest(messages=given, model="m"), ConfigurationError)
    if isinstance(request, ChatRequest):
        body = attempt(lambda: build_body(request), ConfigurationError)
        assert isinstance(body, ConfigurationError) or json.dumps(body)


def media(data: bytes) -> None:
    """What bytes are is told by how they begin, or refused; an embedded picture or sound has the same content."""
    kind = image_type(data)
    assert kind is None or kind.startswith("image/")
    name = audio_format(data)
    assert name is None or name.isalnum()
    for made in (attempt(lambda: Image.from_bytes(data), ConfigurationError),):
        if isinstance(made, Image):
            assert made.content == data
            assert Image.from_url(made.url).content == data
    attempt(lambda: Audio.from_bytes(data), ConfigurationError)
    for of in (Image.from_url, Audio.from_url):
        made = attempt(lambda: of(text(data)), ConfigurationError)  # noqa: B023 - called at once
        assert isinstance(made, ConfigurationError) or json.dumps(made.to_wire())
