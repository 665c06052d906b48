"""How values show themselves: as HTML in notebooks, and as Markdown in what those are exported to."""
