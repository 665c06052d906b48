"""A model's Markdown written anew: nothing in it is more than text, whoever reads it, pandoc above all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pypandoc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from display.pages import EVIL, PIECES, RENDERERS, check_harmless
from openai_compat import ChatResponse
from openai_compat.display import sanitize
from openai_compat.display.formulas import typesettable
from openai_compat.display.markdown import to_markdown
from openai_compat.display.rewrite import sanitize_markdown
from openai_compat.wire.messages import ToolCall
from openai_compat.wire.response import Choice

# How nbconvert calls it for LaTeX and PDF.
PANDOC = [pypandoc.get_pandoc_path(), "--from=markdown+tex_math_double_backslash"]
MORE_THAN_TEXT = [
    *("```\n\\input{x}\n", "~~~\n\\input{x}\n```\n", "`a\n\n\\input{x}`", "``\\input{x}`", "    \\input{x}"),
    *("- a\n  ```\n  \\input{x}\n  ```", "> ```\n\\input{x}\n```", "- a\n\n      \\input{x}\n- b", "a\\\n\\input{x}"),
    *(
        "\\\\(^^5cinput{x}\\\\)",
        "\\\\[^^5cinput{x}\\\\]",
        "\\\\(\\input{x}\\\\)",
        "\\begin{align}\\input{x}\\end{align}",
    ),
    *(
        "$\\input{x}$",
        "$$\\loop\\iftrue\\repeat$$",
        "\\(\\end{document}\\)",
        "$a$5 $\\$",
        "$a\\$ $",
        "$x$$y$",
        "`a``b`",
    ),
    *("`\\input{x}`{=latex}", "```{=latex}\n\\input{x}\n```", "```latex {=tex}\n\\input{x}\n```", "`x`{.a b=c}"),
    *("---\ntitle: a\nheader-includes: |\n  \\input{x}\n---\n", "% \\input{x}", "# a {#b .c}", "a\nb\n===", "[x]{.y}"),
    *("::: {.x}\n\\input{y}\n:::", "Term\n: \\input{x}", "Term\n~ a", "(@) a", "| a\\input{x}\n| b", "i. a", "x^[a]"),
    *("+---+\n| a |\n+---+", "a  b\n-- --\n1  2", "[@a] @b", "[^1]\n\n[^1]: \\input{x}", "<div>\\input{x}</div>"),
    *("|a|b|\n|-|-|\n|`|\\input{x}`|", "|a|\n|-|\n|$\\|x|$|", "|a|\n|-|\n|`x\\|y`|", "![x](https://a.test)"),
    *(
        "\\![x](https://a.test)",
        "[x](https://a.test/\\input{y})",
        "[$\\input{x}$](<https://a.test/ |$`>)",
        "&#92;input{x}",
    ),
    *(
        "@cite{x}",
        "~a~ ^b^",
        "a--b...\"c\" 'd'",
        "\\# a",
        "1\\. a",
        "&lt;b> &amp;lt;",
        "\\cite{x}\\label{y}",
        "<!-- -->",
    ),
]


def nodes(value: Any) -> list[dict[str, Any]]:
    """Everything in pandoc's tree."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * (isinstance(value, dict) and "t" in value) + [node for part in inner for node in nodes(part)]


def check_pandoc(markdown: str) -> None:
    """Pandoc finds only structure, text, code, links to the web and formulas that TeX typesets."""
    done = subprocess.run([*PANDOC, "--to=json"], input=markdown.encode(), capture_output=True, check=True, timeout=60)
    tree = json.loads(done.stdout)
    assert tree["meta"] == {}
    for node in nodes(tree["blocks"]):
        kind, content = node["t"], node.get("c")
        assert kind not in ("RawInline", "RawBlock", "Image", "Note", "Cite", "Div", "Span", "DefinitionList"), node
        if kind == "Math":
            assert typesettable(content[1]) == content[1], node
        elif kind == "Link":
            assert sanitize.LINK.match(content[2][0]), node
        elif kind in ("Code", "CodeBlock"):
            assert not content[0][2], node


@pytest.mark.parametrize("text", ["\n\n".join([*EVIL, *MORE_THAN_TEXT]), *MORE_THAN_TEXT[:8]])
def test_pandoc_finds_nothing_but_text(text: str) -> None:
    check_pandoc(sanitize_markdown(text))
    for renderer in RENDERERS:
        check_harmless(renderer.render(sanitize_markdown(text)), mathjax=False)


@settings(max_examples=10)
@given(st.lists(st.lists(st.sampled_from([*EVIL, *MORE_THAN_TEXT, *"\n \\`$*[]()<{}!|#-"]), max_size=6), max_size=30))
def test_pandoc_finds_nothing_but_text_in_any(texts: list[list[str]]) -> None:
    # Many in one, for pandoc takes its time to start.
    check_pandoc("\n\n".join(sanitize_markdown("".join(pieces)) for pieces in texts))


@given(PIECES)
def test_no_markdown_for_exports_is_more_than_text(pieces: list[str]) -> None:
    for renderer in RENDERERS:
        check_harmless(renderer.render(sanitize_markdown("".join(pieces))), mathjax=False)


def test_a_whole_answer_is_no_more() -> None:
    evil = "\n".join(MORE_THAN_TEXT)
    calls = (ToolCall(id="1", name=evil, arguments_json=evil),)
    answer = ChatResponse(model=evil, choices=(Choice(text=evil, tool_calls=calls, finish_reason=evil),))
    check_pandoc(to_markdown(answer) or "")


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("# a\n\n- **b** `<c>`\n\n```html\n<d>\n```", "# a\n\n-   **b** `<c>`\n\n```html\n<d>\n```"),
        ("a <b> & c", "a \\<b\\> \\& c"),
        ("![cat](https://x.test) [y](https://y.test)", "[cat](<https://x.test>) [y](<https://y.test>)"),
        ("[x](javascript:1)", "\\[x\\](javascript:1)"),
        (r"\(a_1\), \[ b<c \], $d$, $5", r"$a_{1}$, $$b< c$$, $d$, \$5"),
        ("$$\na\n$$", "$$a$$"),
        (r"\input{x} \* \\", r"&#92;input\{x\} \* &#92;"),
        (r"$\input{x}$", r"`$\input{x}$`"),
        ("$$\n\\input{x}\n$$", "```text\n$$\n\\input{x}\n$$\n```"),
        ("1. a\n   - b\n2. c", "1.  a\n\n    -   b\n\n2.  c"),
        ("> a\n>\n> b  \n> c", "> a\n>\n> b\\\n> c"),
        ("a *b* ~~c~~ `` ` ``", "a *b* ~~c~~ `` ` ``"),
        ("a\n1990\\. b\n\\- c", "a\n1990\\. b\n\\- c"),
        ("|a|b|\n|-|-|\n|$\\|x|$ `y`|1|", "| a | b |\n| --- | --- |\n| \\$\\|x | \\$ `y` |"),
        ("Really!\n\na\n===\n---", "Really\\!\n\n# a\n\n* * *"),
    ],
)
def test_markdown_for_exports(text: str, markdown: str) -> None:
    assert sanitize_markdown(text) == markdown


def test_what_cannot_be_parsed_is_code(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "*" * (sanitize.MAX_MARKDOWN + 1)
    assert sanitize_markdown(long) == f"```text\n{long}\n```"
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    sanitize.markdown_parser.cache_clear()
    try:
        assert sanitize_markdown("**a**") == "```text\n**a**\n```"
    finally:
        sanitize.markdown_parser.cache_clear()


@pytest.mark.parametrize("text", ["!" * 100_000, " ".join("`" * length for length in range(1, 440)), "*a* " * 25_000])
def test_no_export_takes_quadratic_time(text: str) -> None:
    began = time.process_time()
    sanitize_markdown(text)
    assert time.process_time() - began < 8
