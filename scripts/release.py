"""Make what is released, in ``dist/``: wheel, source archive, man pages, and the list of what is in it (SBOM).

Run by ``make release``. The wheel is built twice, from copies at different paths, and has to be the same to the byte:
who builds this version from its tag gets this file. (setuptools writes the time into the source archive.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from click_man.core import write_man_pages

from openai_compat import __version__
from openai_compat.cli.commands import PROG, program

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def build(folder: Path) -> Path:
    """A folder with the files made from a copy of the committed tree."""
    tree, made = folder / "tree", folder / "made"
    tree.mkdir()
    archive = folder / "tree.tar"
    run("git", "archive", "--output", str(archive), "HEAD")
    shutil.unpack_archive(archive, tree, filter="data")
    day = run("git", "log", "-1", "--format=%ct")
    run(sys.executable, "-m", "build", "--outdir", str(made), str(tree), SOURCE_DATE_EPOCH=day, PYTHONHASHSEED="0")
    return made


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory(prefix="another-") as two:
        made, again = build(Path(one)), build(Path(two))
        [wheel] = made.glob("*.whl")
        if wheel.read_bytes() != (again / wheel.name).read_bytes():
            sys.exit(f"{wheel.name} is not the same when it is built again")
        shutil.copytree(made, DIST)
    (DIST / "man").mkdir()
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, DIST.glob("*.*")))
    write_man_pages(PROG, program, version=__version__, target_dir=str(DIST / "man"))
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean"
        run(sys.executable, "-m", "venv", "--without-pip", str(clean))
        this = ("--find-links", str(DIST), f"openai-compat=={__version__}")
        run(sys.executable, "-m", "pip", "--python", str(clean), "install", "--quiet", *this)
        cyclonedx = ("-m", "cyclonedx_py", "environment", "--output-reproducible", "--gather-license-texts")
        run(sys.executable, *cyclonedx, "--output-file", str(DIST / "sbom.cdx.json"), str(clean / "bin" / "python"))
    for file in sorted(DIST.iterdir()):
        if file.is_file():
            print(hashlib.sha256(file.read_bytes()).hexdigest(), file.name)


if __name__ == "__main__":
    main()
