"""`python -m benchmarks`: progress on stderr, one Markdown table on stdout, exit code 1 if any answer was wrong."""

import argparse
import platform
import sys
import time

from benchmarks.driver import Bench
from benchmarks.measures import GROUPS
from benchmarks.table import Row, markdown

NAMED = {"attrs", "msgspec", "openai", "requests", "sseclient-py", "urllib3"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, separated by commas: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, not what it costs")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew, with the newest versions")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")

    bench = Bench(rounds=2 if options.quick else 7, fresh=options.fresh)
    rows: list[Row] = []
    start = time.monotonic()
    for name in names:
        for row in GROUPS[name](bench):
            rows.append(row)
            print(f"{time.monotonic() - start:4.0f} s  {name}: {row.title}", file=sys.stderr)
    bench.close()

    print(markdown(rows))
    versions = {name: each["version"] for of_one in bench.installed.values() for name, each in of_one.items()}
    known = ", ".join(f"{name} {versions[name]}" for name in sorted(versions) if name in NAMED)
    print(
        f"\nMedians (quartiles) of rounds in turn. Python {platform.python_version()} on {platform.machine()}; {known}."
    )
    for what, told in bench.failures.items():
        print(f"WRONG: {what}: {told}", file=sys.stderr)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
