"""How a value shows itself in notebooks; what renders it is loaded when one is shown."""

from __future__ import annotations


class RichDisplay:
    """Gives a value the two methods that notebooks look for; ``display`` knows how each type looks."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from .display.html import to_html

        return to_html(self)

    def _repr_markdown_(self) -> str | None:
        from .display.markdown import to_markdown

        return to_markdown(self)
