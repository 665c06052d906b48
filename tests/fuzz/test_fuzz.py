"""Every target over its seeds and over all that fuzzing has kept."""

from __future__ import annotations

import logging

import pytest

from . import linear
from .corpus import kept, seeds
from .linear import check_linear, swollen
from .targets import TARGETS

each_target = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "openai_compat")


@each_target
def test_the_promises_of_each_parser_hold(name: str) -> None:
    for data in [*seeds(name), *kept(name)]:
        TARGETS[name](data)


@each_target
def test_time_is_linear(name: str) -> None:
    inputs = [one for one in [*seeds(name), *kept(name)] if len(one) > 3]
    for data in inputs[:: max(1, len(inputs) // 3)]:
        check_linear(TARGETS[name], data)


def test_what_is_not_linear_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SMALL": 2000, "LARGE": 16000, "FREE": 0.02}.items():
        monkeypatch.setattr(linear, name, value)

    def quadratic(data: bytes) -> None:
        for at in range(0, len(data), 3):
            sum(data[:at])

    with pytest.raises(AssertionError, match="times as long"):
        check_linear(quadratic, b"abcdef")


def test_an_input_is_made_large_out_of_itself() -> None:
    large = swollen(b"\x01abc", 1000)
    assert 900 < len(large) <= 1001
    assert large[:1] == b"\x01"
    assert set(large[1:]) <= set(b"abc")
