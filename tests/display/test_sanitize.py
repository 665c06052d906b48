"""A model's Markdown: rendered, never more than text, in linear time, its formulas verbatim."""

from __future__ import annotations

import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from display.pages import PIECES, check_harmless
from openai_compat.display import sanitize
from openai_compat.display.answer import answer_html


@given(PIECES)
def test_nothing_in_any_text_is_more_than_text(pieces: list[str]) -> None:
    check_harmless(answer_html("".join(pieces), "".join(pieces)))


@given(st.text())
def test_any_text_can_be_sent(text: str) -> None:
    page = answer_html(text, text)
    page.encode("utf-8")
    check_harmless(page)


def test_each_block_has_a_direction_of_its_own() -> None:
    page = answer_html("# a\n\nb\n\n- c\n\n> d\n\n| e |\n|---|\n| f |", "g")
    assert re.findall(r'<(\w+) dir="auto"', page) == ["pre", "h1", "p", "li", "blockquote", "p", "th", "td"]
    # Which JupyterLab's own style would not let it have.
    assert page.count('<p dir="auto" style="text-align:start">') == page.count('<p dir="auto"') == 2


def test_without_markdown_it_the_text_is_shown_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    sanitize.markdown_parser.cache_clear()
    try:
        page = sanitize.markdown_to_html("**a** <script>\n$x$")
    finally:
        sanitize.markdown_parser.cache_clear()
    assert check_harmless(page) == "**a** <script>\n$x$"


def test_a_text_that_is_too_long_to_parse_is_shown_as_it_stands() -> None:
    text = "[" * (sanitize.MAX_MARKDOWN + 1)
    assert check_harmless(sanitize.markdown_to_html(text)) == text


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("costs $5 and $10", "<p>costs <span>$</span>5 and <span>$</span>10</p>"),
        ('"$5" "$a"', "<p>&quot;<span>$</span>5&quot; &quot;<span>$</span>a&quot;</p>"),
        (r"so $a_1 * b * c_2 < 3$.", r"<p>so $a_1 * b * c_2 &lt; 3$.</p>"),
        (r"so \(a_1\) and \[ b*c*d \\[2pt] e*f*g \]", r"<p>so \(a_1\) and \[ b*c*d \\[2pt] e*f*g \]</p>"),
        ("`$HOME` is \\$x", "<p><code>$HOME</code> is <span>$</span>x</p>"),
        ("$PATH, `$HOME` and `$x`.", "<p><span>$</span>PATH, <code>$HOME</code> and <code>$x</code>.</p>"),
        ("[$a*b*c$](https://x.test)", '<p><a href="https://x.test">$a*b*c$</a></p>'),
        ("~~a~~ **b**", "<p><s>a</s> <strong>b</strong></p>"),
        # What TeX would do more with than typeset is code, where MathJax does not look; prices are prices.
        (r"$\input{x}$ \(\href{a}{b}\)", r"<p><code>$\input{x}$</code> <code>\(\href{a}{b}\)</code></p>"),
        ("$$\n\\def\\a{\\a}\\a\n$$", "<pre><code>$$\n\\def\\a{\\a}\\a\n$$</code></pre>"),
        ("$5 (50%) or A$", "<p><span>$</span>5 (50%) or A<span>$</span></p>"),
        (r"\\(\href{a}{b}\\)", r"<p>\(\href{a}{b}\)</p>".replace("\\", r"<span>\</span>")),
        (
            r"\begin{align}\href{a}{b}\end{align}",
            r"<p>\begin{align}\href{a}{b}\end{align}</p>".replace("\\", r"<span>\</span>"),
        ),
        # Formulas with lines of their own.
        ("$$\na_1 \\\\ b_2\n$$", "<p>$$\na_1 \\\\ b_2\n$$</p>"),
        ("so\n$$\nf = a\n+ b\n- c\n$$\nx", "<p>so</p>\n<p>$$\nf = a\n+ b\n- c\n$$</p>\n<p>x</p>"),
        ("\\[\na\n> b\n=\n+ c\n\\]", "<p>\\[\na\n&gt; b\n=\n+ c\n\\]</p>"),
        ("\\[\na\n> b\n=\n# c\n\\]", "<pre><code>\\[\na\n&gt; b\n=\n# c\n\\]</code></pre>"),
        ("> $$a\n> - b$$", "<blockquote>\n<p>$$a\n- b$$</p>\n</blockquote>"),
        ("$$ a $$ or\n- b $$", "<p>$$ a $$ or</p>\n<ul>\n<li>b <span>$</span><span>$</span></li>\n</ul>"),
        ("\\[ a\n\n- b \\]", "<p>[ a</p>\n<ul>\n<li>b ]</li>\n</ul>"),
        # Links.
        ("![cat](https://x.test/c.png)", '<p><a href="https://x.test/c.png">cat</a></p>'),
        ("![](https://x.test/c.png)", '<p><a href="https://x.test/c.png">https://x.test/c.png</a></p>'),
        ("[![cat](https://x.test/c.png)](https://y.test)", '<p><a href="https://y.test">cat</a></p>'),
        (
            "(https://x.test/a_(b)_c), **https://y.test?**",
            '<p>(<a href="https://x.test/a_(b)_c">https://x.test/a_(b)_c</a>), '
            '<strong><a href="https://y.test">https://y.test</a>?</strong></p>',
        ),
        ("[https://x.test](https://y.test)", '<p><a href="https://y.test">https://x.test</a></p>'),
        ("[x]()", "<p><a>x</a></p>"),
        ("`https://x.test` ftp://x.test", "<p><code>https://x.test</code> ftp://x.test</p>"),
    ],
)
def test_markdown_and_formulas(text: str, page: str) -> None:
    assert (
        sanitize.markdown_to_html(text).strip().replace(' dir="auto"', "").replace(' style="text-align:start"', "")
        == page
    )


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["[", "![", "[*", "\\(", "\\[\n", "[a]: b [", "a://", "http:// "])
def test_no_text_takes_quadratic_time(piece: str) -> None:
    text = piece * (sanitize.MAX_MARKDOWN // len(piece))
    began = time.process_time()
    sanitize.markdown_to_html(text)
    # What is searched again from each bracket takes six seconds and more.
    assert time.process_time() - began < 4
