"""The folder tree that the docs draw is the tree on disk, and links within the project lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import openai_compat

ROOT = Path(__file__).parent.parent
PACKAGE = Path(openai_compat.__file__).parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
TREE = re.compile(r"^```text\nopenai_compat/\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMES = re.compile(r"(?:\w+(?:\.py|/)(?: |$))+")
LINK = re.compile(r"(?:\]\(|^\[[^]]+\]: |(?:src|href)=\")(?!https?:|mailto:)([^)\s\"]+)", re.MULTILINE)
REPOSITORY = "https://github.com/openai-compat/openai_compat/"
OWN_LINK = re.compile(re.escape(REPOSITORY) + r"(?:blob|tree|raw)/main/([^)\s\"]+)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def drawn(tree: str) -> list[str]:
    """The paths in a tree: a line begins with modules, or with one folder, whose own lines are indented by two more."""
    paths, folders = [], [""]
    for line in tree.splitlines():
        names = NAMES.match(line.lstrip())
        if names is None:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        assert 0 < depth <= len(folders), f"the line {line!r} is in no folder"
        del folders[depth:]
        for name in names[0].split():
            paths.append(folders[-1] + name)
        if name.endswith("/"):
            folders.append(paths[-1])
    return paths


def on_disk(package: Path) -> set[str]:
    """The packages and modules of a package; a migration is no module that anybody imports."""
    modules = [path.relative_to(package) for path in package.rglob("*.py") if not path.name[0].isdigit()]
    folders = {f"{path.parent.as_posix()}/" for path in modules if path.name == "__init__.py"} - {"./"}
    return folders | {path.as_posix() for path in modules if path.name != "__init__.py"}


def test_the_tree_in_the_docs_is_the_tree_on_disk() -> None:
    tree = TREE.search(ARCHITECTURE.read_text())
    assert tree is not None, "docs/architecture.md draws no tree"
    paths = drawn(tree[1])
    assert sorted(paths) == sorted(set(paths)), "each is named once"
    there = on_disk(PACKAGE)
    assert (set(paths) - there, there - set(paths)) == (set(), set()), "only in the docs; only on disk"


def test_a_tree_is_read_as_it_is_drawn() -> None:
    tree = "  one.py   the first\n  room/    with two.py\n    two.py three.py\n      and more words\n  last.py\n"
    assert drawn(tree) == ["one.py", "room/", "room/two.py", "room/three.py", "last.py"]


FOLDERS = ("", "docs/", "docs/servers/", "docs/reference/", "benchmarks/", ".github/**/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_all_pages_are_looked_at() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "benchmarks/README.md"} <= names
    assert any(name.startswith(".github/") for name in names)


@each_page
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    targets = [(page.parent, target) for target in LINK.findall(text)]
    targets += [(ROOT, target) for target in OWN_LINK.findall(text)]
    for folder, target in targets:
        path, _, anchor = target.partition("#")
        there = folder / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it of their words."""
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_links_from_anywhere() -> None:
    # The package index shows it without the files around it.
    assert not LINK.findall((ROOT / "README.md").read_text())
