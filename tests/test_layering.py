"""Who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import openai_compat

PACKAGE = Path(openai_compat.__file__).parent
ORDER = (
    {"cli", "integrations", "testing"},
    {"web", "fallback"},
    {"client"},
    {"_mapped"},
    {"_chat_client"},
    {"_base_client"},
    {"server_options"},
    {"conversation", "stream"},
    {"batch", "breaker", "probe", "tools", "transport", "sinks"},
    {"wire"},
    {"schema"},
    {"errors", "redaction"},
)
"""Rooms from left to right: each may import itself and those further right, none of its neighbours or to its left."""
OWN_RULES = {
    "": set[str](),
    "__main__": {"cli"},
    "errors": {"_terminal"},
    "redaction": set[str](),
    "_json": set[str](),
    "_terminal": set[str](),
    "_log": {"_terminal", "redaction"},
    "_threads": set[str](),
    "_imports": set[str](),
    "_rich_display": {"display"},
    "_misuse": {"errors"},
    "_interrupts": set[str](),
    "_bell": set[str](),
    "hook_events": {"hooks", "wire"},
    "hooks": {"hook_events", "wire", "errors", "_interrupts", "_log", "_misuse"},
    "cancel": {"_log", "errors"},
    "timeouts": {"cancel", "errors"},
    "futures": {"_threads", "cancel"},
    "providers": {"wire.dialect", "errors"},
    "credentials": {"errors", "redaction"},
    "limits": {"limits", "errors", "timeouts", "wire", "_bell", "_imports", "_log"},
    "local": {"local", "errors"},
    "tokens": {"errors", "limits", "wire"},
    "display": {"display", "conversation", "wire"},
    "params": {"wire", "errors", "cancel", "timeouts", "sinks", "tools", "batch"},
}
ALSO = {
    "client": {"_imports", "cancel", "credentials", "fallback", "futures", "hooks", "params", "timeouts", "tokens"},
    "_chat_client": {
        "_imports",
        "cancel",
        "credentials",
        "fallback",
        "futures",
        "hooks",
        "params",
        "timeouts",
        "tokens",
    },
    "_base_client": {
        *("", "_imports", "_json", "_log", "_misuse", "cancel"),
        *("credentials", "hooks", "limits", "providers", "timeouts"),
    },
    "_mapped": {"cancel", "timeouts"},
    "stream": {"_log", "cancel"},
    "fallback": {"_log", "cancel", "credentials", "hook_events", "hooks", "params", "timeouts", "tokens"},
    "batch": {"_bell", "_json", "_log", "_threads", "cancel", "limits"},
    "tools": {"_bell", "_interrupts", "_json", "_log", "_misuse", "_threads", "cancel"},
    "probe": {"", "_json", "_terminal", "tokens"},
    "sinks": {"_log", "_misuse", "_terminal", "_threads"},
    # A proxy's login and netrc's are found there, and have to be told to the client's secrets.
    "transport": {"_imports", "_log", "cancel", "credentials", "hook_events", "hooks", "limits", "timeouts"},
    "web": {"_json", "_log", "_misuse", "_threads", "cancel"},
    "server_options": {"providers", "credentials"},
    "cli": {"", "_terminal", "providers", "limits", "local"},
    "conversation": {"_json", "_misuse", "_rich_display", "hooks"},
    "wire": {"_imports", "_json", "_log", "_rich_display"},
    "schema": {"_json"},
    "testing": {"_json", "_threads", "credentials", "providers"},
    "integrations": {
        *("", "local", "providers", "credentials", "display", "hook_events", "hooks", "cancel", "timeouts"),
        *("_json", "_log", "_threads"),
    },
}
NOT_IN_WIRE = {"requests", "urllib3", "socket", "ssl", "threading", "time", "os", "random", "http"}

Arrow = tuple[str, str]

MAY_POINT_BACK: set[Arrow] = {
    # The types of hooks name what they are told, which says for which operation.
    ("hooks", "hook_events"),
    # Errors hold what had arrived, and are raised by what makes it.
    ("errors", "wire.response"),
    ("errors", "wire.retry"),
    # Any value may be shown, and what shows it knows all of them.
    ("_rich_display", "display.html"),
    ("_rich_display", "display.markdown"),
    # A client makes the one that stands for several.
    ("client", "fallback"),
    # A client looks which budgets are in force, and loads what they are only where there are any.
    ("limits.current", "limits.budget"),
    # The body of an error may be an event stream, and an event may be an error.
    ("wire.error_body", "wire.sse"),
}
"""Arrows that close circles: each is for type checkers only, or of an import that waits for its first use."""


def room(module: str) -> str:
    return module.partition(".")[0]


def allowed(source: str, target: str) -> bool:
    """Whether a module, named from inside the package, may import another."""
    name = room(source)
    if name in OWN_RULES:
        permitted = OWN_RULES[name]
    else:
        place = next(place for place, rooms in enumerate(ORDER) if name in rooms)
        permitted = {name}.union(*ORDER[place + 1 :], ALSO.get(name, ()))
    return room(target) in permitted or target in permitted


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """What stands under ``if TYPE_CHECKING`` and is never run."""
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    return {inner for node in guarded for statement in node.body for inner in ast.walk(statement)}


def imports(name: str, tree: ast.Module, names: set[str]) -> Iterator[tuple[str, bool]]:
    """Every import of a module, wherever it stands, as an absolute name; and whether it is run."""
    is_package = any(other.startswith(f"{name}.") for other in names) or not name
    skipped = for_type_checkers(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in skipped) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["openai_compat", *name.split(".")] if name else ["openai_compat"]
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{base}.{alias.name}".removeprefix("openai_compat.")
                yield f"openai_compat.{inside}" if inside in names else base, node not in skipped


@functools.cache
def arrows(*, run: bool = True) -> set[Arrow]:
    """The arrows inside the package; with ``run``, only those of code that is run."""
    trees = modules()
    found = set()
    for name, tree in trees.items():
        for target, is_run in imports(name, tree, set(trees)):
            if room(target) == "openai_compat" and (is_run or not run):
                found.add((name, target.removeprefix("openai_compat").removeprefix(".")))
    return found


def test_the_walk_sees_what_is_there() -> None:
    found = arrows()
    assert ("_chat_client", "stream") in found
    assert ("_base_client", "") in found
    assert ("transport.transport", "transport.by_requests") in found, "an import inside a function"
    assert ("wire.parse", "wire.sse") in found
    assert ("wire.parse", "errors") in found
    assert ("errors", "wire.response") in arrows(run=False) - found


def test_every_module_has_a_room_and_every_room_is_there() -> None:
    assert {room(name) for name in modules()} == set().union(*ORDER, OWN_RULES)
    assert set(ALSO) <= set().union(*ORDER)


@pytest.mark.parametrize("arrow", sorted(arrows()), ids=" -> ".join)
def test_no_module_imports_to_its_left(arrow: Arrow) -> None:
    assert allowed(*arrow)


@pytest.mark.parametrize(
    "arrow",
    [
        ("wire.sse", "transport"),
        ("errors", "wire"),
        ("tools.loop", "client"),
        ("tools.tool", "transport"),
        ("local.server", "client"),
        ("local.server", "_json"),
        ("providers", "wire.request"),
        ("transport", "stream"),
        ("timeouts", "transport"),
        ("client", "cli"),
        ("schema.types", "wire.messages"),
        ("tools.loop", "params"),
        ("wire.parse", ""),
    ],
    ids=" -> ".join,
)
def test_an_arrow_that_the_design_forbids_would_be_found(arrow: Arrow) -> None:
    assert not allowed(*arrow)


def circles(found: set[Arrow]) -> set[Arrow]:
    """The arrows that are part of a circle, or lie between two."""
    left: set[Arrow] = set()
    while found != left:
        left = found
        sources, targets = {source for source, _ in left}, {target for _, target in left}
        found = {(source, target) for source, target in left if source in targets and target in sources}
    return left


def test_no_modules_import_each_other_not_even_their_types() -> None:
    # The package names everything for type checkers, and imports nothing.
    found = {(source, target) for source, target in arrows(run=False) if source}
    assert circles(found - MAY_POINT_BACK) == set()


@pytest.mark.parametrize("arrow", sorted(MAY_POINT_BACK), ids=" -> ".join)
def test_each_exception_is_one(arrow: Arrow) -> None:
    found = {(source, target) for source, target in arrows(run=False) if source}
    assert arrow in found
    assert circles(found - (MAY_POINT_BACK - {arrow}))


def test_a_circle_would_be_found() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == {("b", "c"), ("c", "b")}


def test_errors_know_the_wire_only_as_types() -> None:
    assert {target for source, target in arrows(run=False) if source == "errors"} == {
        "_terminal",
        "wire.response",
        "wire.retry",
        "wire.sent_request",
    }


def test_params_are_for_type_checkers_of_clients() -> None:
    assert {source for source, target in arrows(run=False) if target == "params"} <= {
        "client",
        "_chat_client",
        "fallback",
    }
    assert not {source for source, target in arrows() if target == "params"}


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert not {target for source, target in arrows() if source == ""}


@pytest.mark.parametrize(
    "name", [name for name in modules() if room(name) in ("wire", "errors", "redaction", "providers")]
)
def test_the_core_knows_no_sockets_threads_clocks_or_environment(name: str) -> None:
    tree = modules()[name]
    assert not {room(target) for target, _ in imports(name, tree, set(modules()))} & NOT_IN_WIRE


WATCH = """
import json, os, sys, threading
from collections.abc import MutableMapping

read = []

class Recorder(MutableMapping):
    def __init__(self, inner): self.inner = inner
    def __getitem__(self, key): read.append(key); return self.inner[key]
    def __contains__(self, key): read.append(key); return key in self.inner
    def __iter__(self): read.append("*"); return iter(self.inner)
    def __len__(self): read.append("*"); return len(self.inner)
    def __setitem__(self, key, value): read.append(key); self.inner[key] = value
    def __delitem__(self, key): read.append(key); del self.inner[key]

os.environ = os.environb = Recorder(os.environ)
before = set(sys.modules)
exec(sys.argv[1])
loaded = set(sys.modules) - before
logging = sys.modules.get("logging")
loggers = [logging.root, *logging.root.manager.loggerDict.values()] if logging else []
print(json.dumps({
    "read": read,
    "loaded": sorted(loaded),
    "handlers": [repr(handler) for logger in loggers for handler in getattr(logger, "handlers", ())],
    "threads": threading.active_count(),
}))
"""


def fresh(code: str) -> dict[str, list[str]]:
    """What a new interpreter read, loaded and made while it ran ``code``."""
    ran = subprocess.run([sys.executable, "-c", WATCH, code], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, list[str]] = json.loads(ran.stdout)
    return found


def packages(found: dict[str, list[str]]) -> set[str]:
    return {room(name) for name in found["loaded"]}


HEAVY = {
    "requests",
    "urllib3",
    "attrs",
    "attr",
    "msgspec",
    "click",
    "rich",
    "xllamacpp",
    "numpy",
    "sseclient",
    "logging",
    "ssl",
    "socket",
}
OPTIONAL = {
    *("click", "rich", "xllamacpp", "numpy", "hypothesis", "pytest", "PIL", "matplotlib", "pydantic"),
    *("docstring_parser", "jsonschema", "mcp", "anyio", "IPython", "flask", "django", "markdown_it", "celery", "redis"),
    *("genai_prices", "opentelemetry", "pandas", "polars", "pyarrow"),
    *("pandas", "polars", "tiktoken"),
}


def test_importing_the_package_costs_next_to_nothing() -> None:
    found = fresh("import openai_compat")
    assert not packages(found) & HEAVY
    assert [name for name in found["loaded"] if name.startswith("openai_compat")] == ["openai_compat"]
    assert (found["read"], found["handlers"], found["threads"]) == ([], [], 1)


def test_no_name_of_the_package_needs_an_optional_package_or_makes_anything() -> None:
    found = fresh("from openai_compat import *")
    assert not packages(found) & OPTIONAL
    assert (found["handlers"], found["threads"]) == ([], 1)


def test_the_core_loads_nothing_that_does_io() -> None:
    found = fresh("import openai_compat.wire.parse, openai_compat.wire.embeddings, openai_compat.wire.request")
    assert not packages(found) & {"requests", "urllib3", *OPTIONAL}
    assert found["read"] == []


def test_errors_load_nothing_but_the_standard_library() -> None:
    found = fresh("from openai_compat import APIError, redact_error_body")
    assert not packages(found) & HEAVY
    assert [name for name in found["loaded"] if name.startswith("openai_compat")] == [
        "openai_compat",
        "openai_compat._terminal",
        "openai_compat.errors",
        "openai_compat.redaction",
    ]
    assert found["read"] == []
