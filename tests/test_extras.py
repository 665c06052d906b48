"""What can be installed beside the library: each extra alone, or all of them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOR_DEVELOPERS = {"docs", "fuzz", "test"}
OURS = re.compile(r"openai-compat\[([\w,]+)\]")


def extras() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = dict(config["options.extras_require"])
    return {name: needs for name, needs in found.items() if name not in FOR_DEVELOPERS}


def test_all_is_every_extra_and_the_others_bring_no_other() -> None:
    named = {
        name: {extra for found in OURS.findall(needs) for extra in found.split(",")} for name, needs in extras().items()
    }
    assert named.pop("all") == set(named)
    assert {name for name, others in named.items() if others} == set()


def test_the_readme_names_every_extra() -> None:
    table = (ROOT / "README.md").read_text().partition("| Extra |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "|" in row))) == set(
        extras()
    )
