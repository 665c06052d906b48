"""The pages of the docs as programs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOT_PROGRAMS = {"_build", "reference"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if NOT_PROGRAMS.isdisjoint(page.parts)),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program_of(page: str) -> str:
    """All examples of a page, one after the other."""
    return "\n".join(match[1] for match in BLOCK.finditer((ROOT / "docs" / page).read_text()))
