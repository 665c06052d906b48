"""The Markdown of a model written anew, for what notebooks are exported to: by way of pandoc LaTeX and PDF, and others.

Each reader of Markdown finds something else in a text: raw TeX, metadata, attributes, other ends of code and formulas.
So what is exported is not the model's text but what our own parser found in it, with everything else escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .escape import code_block, encodable
from .formulas import typesettable
from .sanitize import MAX_MARKDOWN, formula_between, markdown_parser

if TYPE_CHECKING:
    from markdown_it.token import Token

# What means something anywhere, and what does only where a line begins.
_ANYWHERE = re.compile(r"[`*_{}\[\]<>~^|$&@]|!\Z")
_AT_START = re.compile(r"([-+=:%#])|(\(?(?:\d{1,9}|[A-Za-z]|[ivxlcdmIVXLCDM]{1,9}))([.)])")
_LANGUAGE = re.compile(r"[A-Za-z][\w+-]{0,20}")
_MARKS = {"em": "*", "strong": "**", "s": "~~"}


def sanitize_markdown(text: str) -> str:
    """Markdown as Markdown that can do no more than ``markdown_to_html`` lets it, whatever reads it.

    Only MathJax, in a page that is made of it, may take text for a formula: pages have ``markdown_to_html``.
    All of it is a code block where it is longer than ``MAX_MARKDOWN``, or markdown-it-py is missing.
    """
    text = encodable(text)
    if len(text) > MAX_MARKDOWN:
        return code_block(text)
    try:
        parser = markdown_parser()
    except ImportError:
        return code_block(text)
    return _Writer(parser.parse(text)).blocks("")


class _Writer:
    """Writes the parser's tokens as Markdown that all readers take for the same."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = iter(tokens)

    def blocks(self, end: str) -> str:
        """The blocks up to the token that ends what holds them."""
        written = []
        for token in self._tokens:
            if token.type == end:
                break
            written.append(self._block(token))
        return "\n\n".join(block for block in written if block)

    def _block(self, token: Token) -> str:
        kind = token.type
        if kind in ("fence", "code_block"):
            language = _LANGUAGE.match(token.info)
            return code_block(token.content.removesuffix("\n"), language[0] if language else "text")
        if kind == "math_block":
            return _formula(token.content)
        if kind == "hr":
            return "* * *"
        if kind == "heading_open":
            return f"{'#' * int(token.tag[1])} {' '.join(self.blocks('heading_close').split())}"
        if kind == "paragraph_open":
            return self.blocks("paragraph_close")
        if kind == "blockquote_open":
            return _prefixed(self.blocks("blockquote_close"), "> ", "> ")
        if kind == "bullet_list_open":
            return self._list("bullet_list_close", None)
        if kind == "ordered_list_open":
            return self._list("ordered_list_close", int(token.attrs.get("start", 1)))
        if kind == "table_open":
            return self._table()
        assert kind == "inline", kind
        return _inline(token.children or ())

    def _list(self, end: str, number: int | None) -> str:
        items: list[str] = []
        for token in self._tokens:
            if token.type == end:
                break
            mark = "-" if number is None else f"{number + len(items)}."
            # What belongs to an item is indented by a multiple of four, which is enough for every reader.
            mark = mark.ljust(-(-(len(mark) + 1) // 4) * 4)
            items.append(_prefixed(self.blocks("list_item_close"), mark, " " * len(mark)))
        return ("\n\n" if any("\n\n" in item for item in items) else "\n").join(items)

    def _table(self) -> str:
        rows: list[list[str]] = []
        for token in self._tokens:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(_inline(token.children or (), in_table=True))
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _prefixed(text: str, first: str, others: str) -> str:
    lines = [(others + line).rstrip() for line in text.split("\n")]
    return first + "\n".join(lines).removeprefix(others)


def _inline(tokens: Sequence[Token], *, in_table: bool = False) -> str:
    written = ""
    addresses: list[str] = []
    for token in tokens:
        piece = ""
        if token.type == "text":
            piece = _escaped(token.content, at_start=not written or written.endswith("\n"))
        elif token.type == "softbreak":
            piece = "\n"
        elif token.type == "hardbreak":
            piece = "\\\n"
        elif token.type == "code_inline":
            piece = _code(token.content, in_table)
        elif token.type == "math":
            piece = _formula(token.content, in_table)
        elif token.type == "link_open":
            addresses.append(str(token.attrs.get("href", "")))
            piece = "[" if addresses[-1] else ""
        elif token.type == "link_close":
            address = re.sub(r"[\s<>\\|`$]", lambda found: f"%{ord(found[0]):02X}", addresses.pop())
            piece = f"](<{address}>)" if address else ""
        else:
            piece = _MARKS[token.tag]
        # Two pieces of code, or two formulas, would become one.
        written += " " * (piece[:1] in ("`", "$") and written.endswith(piece[:1])) + piece
    return written.replace("\n", " ") if in_table else written


def _escaped(text: str, at_start: bool = True) -> str:
    """Text that is nothing but text. A backslash has to be an entity: pandoc takes two and a bracket for a formula."""
    text = re.sub(r"\\", "\0", re.sub(r"\s+", " ", text))
    text = _ANYWHERE.sub(r"\\\g<0>", text)
    if at_start:
        text = text.lstrip()
        if found := _AT_START.match(text):
            text = f"{found[2] or ''}\\{text[found.end() - 1 :]}"
    return text.replace("\0", "&#92;")


def _code(code: str, in_table: bool) -> str:
    if in_table and "|" in code:
        return _escaped(code, at_start=False)
    ticks = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    space = " " * (code[:1] in "` " or code[-1:] in "` ")
    return f"{ticks}{space}{code}{space}{ticks}"


def _formula(source: str, in_table: bool = False) -> str:
    dollars, formula = formula_between(source)
    written = typesettable(formula) or ""
    if in_table:
        written = written.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
    return f"{dollars}{' '.join(written.split())}{dollars}"
