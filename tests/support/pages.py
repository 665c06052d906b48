"""The pages of the docs as programs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program_of(page: str) -> str:
    """All examples of a page, one after the other."""
    return "\n".join(match[1] for match in BLOCK.finditer((ROOT / "docs" / page).read_text()))
