"""What a model writes, on a page, in an export and in a log."""

from __future__ import annotations

from display.pages import RENDERERS, check_harmless

from openai_compat.display.answer import answer_html
from openai_compat.display.escape import code_block, escape_markdown
from openai_compat.display.rewrite import sanitize_markdown
from openai_compat.display.sanitize import markdown_to_html
from openai_compat.redaction import redact_error_body

from .inputs import SECRET, text


def html(data: bytes) -> None:
    """Markdown becomes a page without scripts, forms, pictures from elsewhere, or links off the web."""
    check_harmless(markdown_to_html(text(data)))
    check_harmless(answer_html(text(data), text(data[::2]), note=text(data[1::2])))


def markdown(data: bytes) -> None:
    """Markdown becomes Markdown that renderers which let HTML through find nothing in."""
    for made in (sanitize_markdown(text(data)), code_block(text(data)), escape_markdown(text(data))):
        for renderer in RENDERERS:
            check_harmless(renderer.render(made), mathjax=False)


def redacted(data: bytes) -> None:
    """The key is masked wherever it stands, whatever stands around it, and the text stays within its bound."""
    shown = redact_error_body(text(data.replace(b"\x00", SECRET.encode())), secrets=[SECRET], limit=500)
    assert SECRET not in shown
    assert len(shown) < 600
