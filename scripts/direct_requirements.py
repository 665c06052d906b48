"""Of a list of installed packages on stdin, those that setup.cfg names itself, without what only the tests need.

uv pip freeze | python scripts/direct_requirements.py > constraints.txt
"""

import re
import sys
from importlib.metadata import requires


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


named = {
    plain(re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0])
    for line in requires("openai-compat") or ()
    if 'extra == "test"' not in line
}
sys.stdout.writelines(line for line in sys.stdin if plain(line.partition("==")[0]) in named)
