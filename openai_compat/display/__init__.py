"""How values show themselves: as HTML and as Markdown."""
