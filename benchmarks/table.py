"""One Markdown table: a row a measurement, a column a contestant, then our ratios to the others."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.contestants import ENTRIES

RIVALS = ("plain", "openai_sdk", "floor")


@dataclass(frozen=True)
class Row:
    """A measurement's samples, one a round, by contestant."""

    title: str
    samples: dict[str, list[float]]

    def cell(self, name: str) -> str:
        """The median, with the quartiles where there are enough samples for them."""
        if name not in self.samples:
            return "–"
        if not (samples := self.samples[name]):
            return "wrong"
        median = _number(statistics.median(samples))
        if len(samples) < 4:
            return median
        low, _, high = statistics.quantiles(samples, method="inclusive")
        return f"{median} ({_number(low)}–{_number(high)})"

    def ratio(self, rival: str) -> str:
        """The median over the rounds of our figure over the rival's: a busy moment falls on both."""
        pairs = list(zip(self.samples.get("ours", ()), self.samples.get(rival, ()), strict=False))
        if not pairs or not all(theirs for _, theirs in pairs):
            return "–"
        return f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def markdown(rows: Iterable[Row]) -> str:
    titles = {entry.name: entry.title for entry in ENTRIES}
    lines = [
        ["", *titles.values(), *(f"ours / {titles[rival]}" for rival in RIVALS)],
        ["---", *["---:"] * (len(titles) + len(RIVALS))],
    ]
    lines += [[row.title, *map(row.cell, titles), *map(row.ratio, RIVALS)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
