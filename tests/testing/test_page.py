"""The page of the docs, as a user's test suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pages import program_of

from .suites import run

pytestmark = pytest.mark.process

PATIENT = """
from hypothesis import HealthCheck, settings

settings.register_profile("patient", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("patient")
"""
"""The machine may have much else to do."""


def test_the_tests_of_the_page_pass_with_real_calls_blocked(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PATIENT, encoding="utf-8")
    said = run(tmp_path, program_of("testing.md"), "-k", "not Django", ini="openai_compat_block = true")
    assert "6 passed" in said, said
