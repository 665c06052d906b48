"""Fuzz the targets, one after the other: ``PYTHONPATH=tests python -m fuzz --seconds 3600 [target ...]``.

What breaks a promise goes into the kept inputs, which the tests run from then on; so do the smallest of those that
reach new lines. The end is 1 where something broke.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from .arcs import Arc, reached
from .corpus import keep, kept, seeds

MAX_KEPT = 40
"""Inputs that a run adds to a target's kept ones at most, the smallest first."""
LONGEST = 4096
"""Bytes of an input."""


def main() -> int:
    logging.getLogger("openai_compat").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--seconds", type=int, default=3600, help="for all targets together")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    if options.one:
        _fuzz(*options.one)
    from .targets import TARGETS

    names = options.targets or list(TARGETS)
    broken = [name for name in names if not _run(name, max(1, options.seconds // len(names)))]
    print("==> all promises held" if not broken else f"==> broken: {', '.join(broken)}")
    return 1 if broken else 0


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing broke."""
    with tempfile.TemporaryDirectory() as folder:
        begun, grown, found = (Path(folder, part) for part in ("begun", "grown", "found"))
        for path in (begun, grown, found):
            path.mkdir()
        _write(begun, [*seeds(name), *kept(name)])
        print(f"==> {name}: {seconds} s", flush=True)
        limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=30", "-rss_limit_mb=4096"]
        done = _start(name, [*limits, f"-artifact_prefix={found}/", str(grown), str(begun)])
        print(_summary(done), flush=True)
        keep(name, [*kept(name), *_new(name, _read(grown)), *_read(found)])
        return done.returncode == 0


def _new(name: str, inputs: list[bytes]) -> list[bytes]:
    """The smallest inputs that reach what no seed and no kept one reaches."""
    from .targets import TARGETS

    target = TARGETS[name]
    known: set[Arc] = set()
    for one in [*seeds(name), *kept(name)]:
        known |= reached(target, one)
    new: list[bytes] = []
    for one in sorted(inputs, key=len):
        arcs = reached(target, one)
        if not arcs <= known and len(new) < MAX_KEPT:
            known |= arcs
            new.append(one)
    return new


def _summary(done: subprocess.CompletedProcess[str]) -> str:
    """How often the target ran; or the exception that came out, or the stack where it hung."""
    said = done.stdout + done.stderr
    at = said.find("Uncaught Python exception") if "Uncaught" in said else said.find("ERROR: libFuzzer")
    lines = said[at:].splitlines() if done.returncode else re.findall("^Done .*", said, re.MULTILINE)
    return "\n".join(line[:300] for line in lines[:40] if not line.startswith("#"))


def _start(name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", "--one", name, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")


def _fuzz(name: str, *arguments: str) -> None:
    """The process of one target: it ends in here."""
    import atheris

    with atheris.instrument_imports(include=["openai_compat"], enable_loader_override=False):
        from .targets import TARGETS
    from .linear import check_linear

    target = TARGETS[name]

    def run(data: bytes) -> None:
        target(data)
        if data and zlib.crc32(data) % 64 == 0:
            check_linear(target, data)

    atheris.Setup([name, *arguments], run)
    atheris.Fuzz()


def _write(folder: Path, inputs: Iterable[bytes]) -> None:
    for one in inputs:
        (folder / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)


def _read(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    sys.exit(main())
