"""A virtual environment for each contestant, made on first use, kept until what it should hold has changed."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contestants import ROOT, Entry

ENVS = ROOT / "benchmarks" / ".envs"


def prepare(entry: Entry, fresh: bool = False) -> Path:
    """Return the contestant's own Python."""
    home = ENVS / entry.name
    python, made_from, source = home / "bin" / "python", home / "made-from.txt", home / "source.txt"
    wanted = "\n".join([sys.version, *entry.requirements])
    if fresh or _read(made_from) != wanted:
        print(f"making the environment of {entry.title}: {', '.join(entry.requirements)}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        _pip(python, "install", *entry.requirements)
        if sys.version_info < (3, 12):
            _pip(python, "uninstall", "--yes", "setuptools")  # it has code run at each start of Python
        made_from.write_text(wanted)
    if entry.from_tree and _read(source) != (tree := _tree_hash()):
        print(f"installing the tree into the environment of {entry.title}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as copy:  # pip would leave a build folder in the tree
            ignore = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "benchmarks", "docs", "tests")
            shutil.copytree(ROOT, copy, ignore=ignore, dirs_exist_ok=True)
            _pip(python, "install", "--no-deps", "--force-reinstall", copy)
        source.write_text(tree)
    return python


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _pip(python: Path, *arguments: str | Path) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


def _tree_hash() -> str:
    files = sorted((ROOT / "openai_compat").rglob("*.py"))
    return hashlib.sha256(b"\0".join(part for file in files for part in (bytes(file), file.read_bytes()))).hexdigest()
