"""What nbconvert makes of answers in a notebook: pages, and the LaTeX that PDF files are made of."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pypandoc
import pytest
from nbconvert import HTMLExporter, LatexExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

from display.pages import EVIL
from openai_compat import ChatResponse
from openai_compat.wire.response import Choice

PROGRAMS = [
    r"$\input{/etc/hostname}$",
    r"$\makeatletter\@@input /etc/hostname\relax$",
    r"$\ExplSyntaxOn\use:c{@@in put}~/etc/hostname~\ExplSyntaxOff x$",
    r"$$\immediate\write18{touch x}$$",
    r"$\def\a{\a}\a$",
    r"\\(^^5cinput{/etc/hostname}\\)",
    "```\n\\input{/etc/hostname}\n",
    "---\nheader-includes: |\n  \\input{/etc/hostname}\n---\n",
    r"\begin{equation}\href{javascript:alert(1)}{x}\end{equation}",
]


@pytest.fixture(autouse=True)
def pandoc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(pypandoc.get_pandoc_path()).parent), prepend=":")


def notebook(*texts: str) -> nbformat.NotebookNode:
    """A notebook with a cell for each answer."""
    cells = []
    for text in texts:
        answer = ChatResponse(model="m", choices=(Choice(text=text, finish_reason="stop"),))
        data = {"text/html": answer._repr_html_(), "text/markdown": answer._repr_markdown_(), "text/plain": "answer"}
        cells.append(new_code_cell("ask()", outputs=[new_output("execute_result", data)]))
    return new_notebook(cells=cells)


def test_latex_has_nothing_of_a_models_programs() -> None:
    text, _ = LatexExporter().from_notebook_node(notebook("**so** $a_1$", *PROGRAMS, "\n\n".join(EVIL)))
    body = text[text.index(r"\begin{document}") :]
    assert r"\textbf{so} \(a_{1}\)" in body
    assert not re.search(
        r"\\(?:input|immediate|write|def(?!\\(?:label|LT))|makeatletter|ExplSyntaxOn|include\w*)\b|\^\^", body
    )
    assert not re.search(r"\\href\{(?!https?://|mailto:)", body)
    assert body.count(r"\begin{document}") == body.count(r"\end{document}") == 1
    assert "etc/hostname" in body  # as text


def test_pages_have_nothing_more_than_text() -> None:
    harmless, _ = HTMLExporter().from_notebook_node(notebook("hi"))
    page, _ = HTMLExporter().from_notebook_node(notebook("$a_1$", *PROGRAMS, "\n\n".join(EVIL)))
    for tag in ("<script", "<img", "<iframe", "<style"):
        assert page.count(tag) == harmless.count(tag)
    assert "$a_1$" in page
    # MathJax looks into text that is in one piece, and not into code.
    seen = re.sub(r"(?s)<code>.*?</code>|<script.*?</script>", "", page)
    assert not re.search(r"\\begin\{equation\}|\$\$\\immediate", seen)
