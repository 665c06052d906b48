"""The pages of the docs that list things list all of them."""

from __future__ import annotations

import importlib
import re
import sys

import pytest
from support.pages import ROOT

import openai_compat
from openai_compat import PROVIDERS, Provider

DOCS = ROOT / "docs"
DIRECTIVE = re.compile(r"^\.\. (?:auto|py:)\w+:: openai_compat\.([\w.]+)$", re.MULTILINE)
DOCUMENTED = [name for page in (DOCS / "reference").glob("*.md") for name in DIRECTIVE.findall(page.read_text())]
MODULES = (
    "web",
    "integrations.cache",
    "integrations.flask",
    "integrations.django",
    "integrations.celery",
    "integrations.jupyter",
)
PACKAGES = {
    "web": "requests",
    "testing": "pytest",
    "integrations.otel": "opentelemetry",
    "integrations.cache": "requests_cache",
    "integrations.jupyter": "IPython",
}
NOT_SHOWN = {"__version__"}


def test_the_reference_has_every_public_name_once() -> None:
    names = [name for name in DOCUMENTED if "." not in name]
    assert sorted(names) == sorted(set(openai_compat.__all__) - NOT_SHOWN)


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_the_names_of_each_framework(module: str) -> None:
    package = PACKAGES.get(module, module.removeprefix("integrations."))
    pytest.importorskip(package, reason=f"{package} is an extra")
    exported = set(importlib.import_module(f"openai_compat.{module}").__all__)
    names = {name.removeprefix(f"{module}.") for name in DOCUMENTED if name.startswith(f"{module}.")}
    assert {name for name in exported if not name.endswith("ipython_extension")} == names


def test_the_page_on_errors_names_every_exception() -> None:
    rows = set(re.findall(r"^\| `([A-Z]\w+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    errors = {
        name
        for name in openai_compat.__all__
        if isinstance(value := getattr(openai_compat, name), type) and issubclass(value, BaseException)
    }
    assert rows == errors - {"OpenAICompatError", "APIError"}


def servers_table() -> str:
    """The table of the page on servers: ``python tests/test_site.py`` prints it."""

    def row(provider: Provider) -> str:
        page = DOCS / "servers" / f"{provider.name}.md"
        name = f"[`{provider.name}`](servers/{page.name})" if page.exists() else f"`{provider.name}`"
        address = f"`{provider.base_url}`" if provider.base_url else "your own"
        key = f"`{provider.key_variable}`" if provider.key_variable else "none"
        return f"| {name} | {address} | {key} | `{provider.dialect.max_tokens}` | `{provider.dialect.thinking}` |"

    head = "| Provider | Address | Key | Limit of tokens | Reasoning |\n|---|---|---|---|---|\n"
    return head + "\n".join(map(row, PROVIDERS.values())) + "\n"


def test_the_table_of_servers_is_the_library_s() -> None:
    assert servers_table() in (DOCS / "servers.md").read_text()


if __name__ == "__main__":
    sys.stdout.write(servers_table())
