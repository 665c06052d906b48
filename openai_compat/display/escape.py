"""Plain text as HTML and as Markdown that show it as it is."""

from __future__ import annotations

import html
import re


def encodable(text: str) -> str:
    """Text without halves of surrogate pairs, which no message to a browser can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def prose_html(text: str) -> str:
    """Text as HTML in which MathJax finds no formula, for each dollar and backslash is in an element of its own."""
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html.escape(text))


def verbatim_html(text: str) -> str:
    """Text as HTML that keeps its lines and spaces."""
    return f'<pre dir="auto" style="white-space: pre-wrap">{escape_html(text)}</pre>'


def escape_html(text: str) -> str:
    """Text as HTML, also within an attribute."""
    return html.escape(encodable(text))


def code_block(text: str, language: str = "text") -> str:
    """Text as a code block of Markdown, which its own backticks cannot end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{encodable(text)}\n{fence}"


def escape_markdown(text: str) -> str:
    """Text as one line of Markdown, all punctuation escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(encodable(text).split()))
