"""The public names."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import openai_compat

HOMES = {name: module for module, names in openai_compat._MODULES.items() for name in names}


def imported_for_type_checkers() -> dict[str, str]:
    tree = ast.parse(Path(openai_compat.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "only `import x as x` is a re-export for type checkers"
            found[alias.name] = node.module or ""
    return found


def test_no_name_has_two_homes() -> None:
    assert sum(map(len, openai_compat._MODULES.values())) == len(HOMES)
    assert len(set(openai_compat.__all__)) == len(openai_compat.__all__) == len(HOMES) + 1


def test_type_checkers_see_the_same_names_in_the_same_homes() -> None:
    assert imported_for_type_checkers() == HOMES


@pytest.mark.parametrize("name", openai_compat.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(openai_compat, name)
    assert value is getattr(openai_compat, name)
    if name in HOMES:
        home = import_module(f"openai_compat.{HOMES[name]}")
        assert value is getattr(home, name)
        assert getattr(value, "__module__", home.__name__) in (home.__name__, "builtins")


@pytest.mark.parametrize("name", [name for name, module in HOMES.items() if module == "errors"])
def test_every_exception_is_public(name: str) -> None:
    assert name in import_module("openai_compat.errors").__all__


def test_no_exception_is_left_out() -> None:
    errors = import_module("openai_compat.errors")
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert public <= set(openai_compat.__all__)


def test_dir_has_all_names() -> None:
    assert set(openai_compat.__all__) <= set(dir(openai_compat))


@pytest.mark.parametrize("name", ["client_", "nonsense", "_HOMES_", "build"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'openai_compat' has no attribute '{name}'"):
        getattr(openai_compat, name)


def test_names_of_the_original_design_are_kept() -> None:
    assert {
        "build_messages",
        "build_body",
        "build_streaming_body",
        "parse_response",
        "strip_reasoning",
        "build_embeddings_body",
        "parse_embeddings_response",
        "run_tools_loop",
        "redact_error_body",
    } <= set(openai_compat.__all__)


def test_public_values_have_docstrings() -> None:
    missing = [
        name for name in HOMES if name != "PROVIDERS" and not (getattr(openai_compat, name).__doc__ or "").strip()
    ]
    assert missing == []
