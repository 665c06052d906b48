"""The promises in ``docs/threat-model.md`` have the tests that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "threat-model.md"
NAMED = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")
TRUST, SHARE = "Who is trusted, and who is not", "The integrator's share"


def sections() -> dict[str, str]:
    """The page's sections by their headings."""
    _, *parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert named
    files = {path: functions_of(PAGE.parent / path) for _, path in named}
    assert [name for name, path in named if name not in files[path]] == []


def test_every_promise_names_its_test() -> None:
    for heading, text in sections().items():
        promises = re.findall(r"^- (.*?)(?=^- |^\S|\Z|^$)", text, re.MULTILINE | re.DOTALL)
        if heading not in (TRUST, SHARE):
            assert promises, heading
            assert [promise for promise in promises if not NAMED.search(promise)] == []


def test_the_page_speaks_of_all_that_is_promised() -> None:
    wanted = ["Money", "Isolation", "Bounds", "Completeness", "Secrets", "Tools", "Rendering", "Saved files"]
    assert list(sections()) == [TRUST, *wanted, SHARE]


def test_the_policy_leads_to_every_section_and_the_page_to_the_policy() -> None:
    policy = (PAGE.parent.parent / "SECURITY.md").read_text(encoding="utf-8")
    promised = [heading for heading in sections() if heading not in (TRUST, SHARE)]
    linked = re.findall(r"\(docs/threat-model\.md#([\w-]+)\)", policy)
    assert sorted(linked) == sorted(heading.lower().replace(" ", "-") for heading in promised)
    assert "(../SECURITY.md)" in PAGE.read_text(encoding="utf-8")
