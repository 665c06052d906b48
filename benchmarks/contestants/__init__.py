"""The contestants: what each is called, what its environment holds, and what all of them can be asked to do."""

import configparser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    """What every contestant must have understood of an answer."""

    text: str
    finish_reason: str | None
    input_tokens: int
    output_tokens: int


class Contestant(Protocol):
    """One library, used as its documentation says; each module here has a class of this shape and this name.

    Only `chat` is required.
    """

    def __init__(self, base_url: str) -> None: ...

    def chat(self) -> Answer:
        """Ask once, without streaming."""

    def stream(self, sink: Callable[[str], object]) -> Answer:
        """Ask once, streaming: each piece of text goes to `sink`, the whole is returned."""

    def tools(self) -> list[tuple[str, Any]]:
        """Ask once, streaming: return the name and the parsed arguments of each tool call."""

    def embed(self, texts: list[str], encoding: str) -> Sequence[Any]:
        """Return one vector a text, lists of floats or float32 buffers; `encoding` is `float` or `base64`."""


@dataclass(frozen=True)
class Entry:
    """A contestant as the driver sees it; `imports` is the statement that its users begin with."""

    name: str
    title: str
    imports: str
    requirements: tuple[str, ...]
    from_tree: bool = False
    only_chat: bool = False


def _own_requirements() -> tuple[str, ...]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return tuple(setup["options"]["install_requires"].split())


ENTRIES = (
    Entry("ours", "openai_compat", "import openai_compat", _own_requirements(), from_tree=True),
    Entry("openai_sdk", "openai", "import openai", ("openai",)),
    Entry("plain", "plain loop", "import requests, sseclient", ("requests", "sseclient-py")),
    Entry("floor", "floor", "import http.client, msgspec", ("msgspec",)),
    Entry("urllib3_bare", "bare urllib3", "import urllib3", ("urllib3",), only_chat=True),
)
