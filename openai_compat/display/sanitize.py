"""The Markdown of a model as sanitized HTML.

It can run no script, load nothing and style nothing: raw HTML is escaped, images become links, links lead to http,
https and mailto only, and formulas hold nothing but known notation.
"""

from __future__ import annotations

import functools
import html
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .escape import encodable, prose_html, verbatim_html
from .formulas import typesettable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline

MAX_MARKDOWN = 100_000
"""Characters of the longest text that is parsed as Markdown."""
MAX_LABELS = 500_000
"""Characters of a text that are searched for the ends of its links, all links together: brackets that are never closed
would take quadratic time."""

LINK = re.compile(r"https?://|mailto:", re.IGNORECASE)
_URL = re.compile(r"https?://(?:[^\s<>\"`*\\\[\]|()]|\([^\s<>\"`*\\\[\]|()]*\))+", re.IGNORECASE)
# No formula holds a second beginning: a text that only ever begins formulas would take quadratic time. It does with the
# rules of mdit-py-plugins (dollarmath, amsmath, texmath), of which none knows all four of these forms either.
_MATH = re.compile(
    r"\$\$(?:[^$`]|\$(?!\$)){1,2000}+\$\$"
    r"|\\\((?:[^\\]|\\[^()]){1,2000}+\\\)"
    r"|\\\[(?:[^\\]|\\[^\[\]]){1,2000}+\\\]"
    r"|\$(?![\s$])[^$\n`]{1,500}(?<![\s\\])\$(?!\w)"
)
_MATH_ENDS = {"$$": "$$", r"\[": r"\]"}
_DIRECTED = {"p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "blockquote"}


def markdown_to_html(text: str) -> str:
    """Markdown as sanitized HTML, its formulas verbatim for MathJax; what TeX could not typeset is code.

    All of it is verbatim where it is longer than ``MAX_MARKDOWN``, or markdown-it-py (extra ``jupyter``) is missing.
    """
    text = encodable(text)
    if len(text) > MAX_MARKDOWN:
        return verbatim_html(text)
    try:
        parser = markdown_parser()
    except ImportError:
        return verbatim_html(text)
    return str(parser.render(text))


@functools.cache
def markdown_parser() -> MarkdownIt:
    """The parser that sanitizes; made once.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    # Unlike the other presets, this one escapes raw HTML.
    parser = _new_parser()
    parser.validateLink = lambda url: LINK.match(url) is not None  # type: ignore[method-assign]
    # Bare addresses become links by our own search, for the parser's needs another package.
    parser.linkify = SimpleNamespace(match_at_start=_address)
    parser.core.ruler.disable("linkify")
    parser.core.ruler.push("finish", _finish)
    parser.block.ruler.before(
        "blockquote", "math", _math_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    parser.inline.ruler.before("escape", "math", _math)
    parser.inline.ruler.at("image", _image)
    parser.inline.ruler.at("linkify", _bare_link)
    parser.add_render_rule("math", lambda self, tokens, at, options, env: html.escape(tokens[at].content))
    parser.add_render_rule(
        "math_block", lambda self, tokens, at, options, env: f"<p>{html.escape(tokens[at].content)}</p>\n"
    )
    parser.add_render_rule("text", lambda self, tokens, at, options, env: prose_html(tokens[at].content))
    return parser


def _new_parser() -> MarkdownIt:
    """A parser that stops looking for links after ``MAX_LABELS`` characters."""
    from markdown_it import MarkdownIt, helpers

    def bounded(state: StateInline, start: int, disable_nested: bool = False) -> int:
        if state.env.setdefault("labels", MAX_LABELS) < 0:
            return -1
        end = helpers.parseLinkLabel(state, start, disable_nested)
        state.env["labels"] -= (state.posMax if end < 0 else end) - start
        return end

    parser = MarkdownIt("js-default", {"linkify": True})
    parser.helpers = SimpleNamespace(  # type: ignore[assignment]
        parseLinkLabel=bounded,
        parseLinkDestination=helpers.parseLinkDestination,
        parseLinkTitle=helpers.parseLinkTitle,
    )
    return parser


def formula_between(source: str) -> tuple[str, str]:
    """The dollars that stand for a formula's delimiters, and what is between those."""
    if source.startswith(("$$", r"\[", r"\(")):
        return "$" if source[1] == "(" else "$$", source[2:-2]
    return "$", source[1:-1]


def _math(state: StateInline, silent: bool) -> bool:
    """Keep a formula verbatim for MathJax: its underscores and backslashes are no Markdown."""
    found = _MATH.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    known = typesettable(formula_between(found[0])[1]) is not None
    if not known and "\\" not in found[0]:
        return False
    if not silent:
        state.push("math" if known else "code_inline", "" if known else "code", 0).content = found[0]
    state.pos = found.end()
    return True


def _math_block(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """Keep a formula on lines of its own verbatim, for they may look like lists, headings or quotations."""
    start = state.bMarks[first] + state.tShift[first]
    opener = state.src[start : start + 2]
    closer = _MATH_ENDS.get(opener)
    if closer is None or state.is_code_block(first):
        return False
    for at in range(first, end):
        line = state.getLines(at, at + 1, state.blkIndent, False).strip()
        if not line or state.sCount[at] < state.blkIndent:
            return False
        if at == first:
            line = line[2:]
        elif line.startswith(opener) and opener != closer:
            return False
        if closer in line:
            break
    else:
        return False
    if line.index(closer) + 2 < len(line):
        return False
    if not silent:
        source = state.getLines(first, at + 1, state.blkIndent, False).strip()
        known = typesettable(formula_between(source)[1]) is not None
        state.push("math_block" if known else "code_block", "" if known else "code", 0).content = source
        state.line = at + 1
    return True


def _image(state: StateInline, silent: bool) -> bool:
    """Make an image a link; within a link, only its text."""
    if not state.src.startswith("![", state.pos):
        return False
    from markdown_it.rules_inline import link

    start = len(state.tokens)
    state.pos += 1
    if not link(state, silent):
        state.pos -= 1
        return False
    if state.linkLevel:
        state.tokens[start:] = [token for token in state.tokens[start:] if token.tag != "a"]
    return True


def _bare_link(state: StateInline, silent: bool) -> bool:
    """The parser's own rule, but only where it finds a link: it looks through all the text before each ``://``."""
    from markdown_it.rules_inline import linkify

    if not state.src.startswith("://", state.pos):
        return False
    scheme = re.search(r"(?:^|[^a-z0-9.+-])(https?)$", state.pending[-6:], re.IGNORECASE)
    if scheme is None or _address(state.src[state.pos - len(scheme[1]) :]) is None:
        return False
    return linkify(state, silent)


def _address(text: str) -> Any:
    """The address at the start of the text, without the punctuation of the sentence around it."""
    found = _URL.match(text)
    return found and SimpleNamespace(url=found[0].rstrip(".,:;!?'_~"))


def _finish(state: StateCore) -> None:
    """Let each block's first letter set its direction, and mend links without text or without an address."""
    from markdown_it.token import Token

    for token in state.tokens:
        if token.nesting == 1 and token.tag in _DIRECTED:
            token.attrSet("dir", "auto")
        if token.type == "paragraph_open":
            # JupyterLab has all paragraphs on the left, those that run from right to left too.
            token.attrSet("style", "text-align:start")
        children = token.children or []
        for at in range(len(children) - 1, 0, -1):
            if children[at].type == "link_close" and children[at - 1].type == "link_open":
                children.insert(at, Token("text", "", 0, content=str(children[at - 1].attrs["href"])))
        for child in children:
            if child.attrs.get("href") == "":
                del child.attrs["href"]
