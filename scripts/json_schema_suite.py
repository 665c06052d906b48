"""Run the JSON Schema Test Suite against the check of ``response_type={...}``.

    python scripts/json_schema_suite.py path/to/JSON-Schema-Test-Suite [--failures]

The path is that of a checkout of https://github.com/json-schema-org/JSON-Schema-Test-Suite. The required tests are run
as the standard has them, ``format`` unchecked; those of the formats with ``format`` checked, as an answer is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from openai_compat.errors import ConfigurationError
from openai_compat.schema.problems import ValidationError
from openai_compat.schema.raw_schema import RawSchema

DRAFTS = {
    "draft2020-12": jsonschema.Draft202012Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft7": jsonschema.Draft7Validator,
}
FORMATS = [
    *("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer", "regex", "time", "uri"),
    *("uri-reference", "uuid"),
]
MOST_FAILURES = 6


def verdict(schema: Any, value: Any, draft: str, formats: bool, documents: dict[str, Any]) -> str:
    if isinstance(schema, dict):
        schema = {"$schema": DRAFTS[draft].META_SCHEMA["$schema"], **schema}
    try:
        RawSchema(schema, formats=formats, documents=documents).convert(value)
    except ValidationError as error:
        return f"cannot: {error}" if "cannot be checked" in str(error) else "invalid"
    except ConfigurationError as error:
        return f"cannot: {error}"
    return "valid"


def failures(files: list[Path], draft: str, formats: bool, documents: dict[str, Any]) -> Iterator[str | None]:
    """For each test None, or what is wrong."""
    for file in files:
        for case in json.loads(file.read_text()):
            for test in case["tests"]:
                found = verdict(case["schema"], test["data"], draft, formats, documents)
                right = found == ("valid" if test["valid"] else "invalid")
                yield None if right else f"{file.stem}: {case['description']}: {test['description']}: {found[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--failures", action="store_true", help="name each test that fails")
    options = parser.parse_args()
    remotes = options.checkout / "remotes"
    documents = {
        f"http://localhost:1234/{file.relative_to(remotes).as_posix()}": json.loads(file.read_text())
        for file in remotes.rglob("*.json")
    }
    enough = True
    print("| Tests | passed | of |\n|---|---|---|")
    named: list[str] = []
    for draft in DRAFTS:
        folder = options.checkout / "tests" / draft
        sets = {
            draft: (sorted(folder.glob("*.json")), False),
            f"{draft}, formats": ([folder / "optional" / "format" / f"{name}.json" for name in FORMATS], True),
        }
        for title, (files, formats) in sets.items():
            found = list(failures([file for file in files if file.exists()], draft, formats, documents))
            wrong = [text for text in found if text is not None]
            named += [f"{title}: {text}" for text in wrong]
            print(f"| {title} | {len(found) - len(wrong)} | {len(found)} |")
            enough = enough and (formats or len(wrong) <= MOST_FAILURES)
    if options.failures:
        print(*named, sep="\n")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
