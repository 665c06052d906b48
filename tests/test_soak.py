"""The soak, for a while; ``make soak`` runs it for ten minutes."""

from __future__ import annotations

import pytest
from support import soak


@pytest.mark.timeout(180)
def test_everything_adds_up_under_faults() -> None:
    tally = soak.soak(10)
    assert tally.problems == []
    assert set(tally.faults) == {"none", *soak.FAULTY}, "each fault came"
    assert tally.retries
    assert tally.failures
    assert set(tally.calls) == set(soak.CALLS)


def test_what_does_not_add_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "CALLS", {"chat": lambda client, tag: [*soak._chat(client, tag), "not so"]})
    monkeypatch.setattr(soak, "MAX_GROWTH", -(2**40))
    tally = soak.soak(1)
    assert any("not so" in problem for problem in tally.problems)
    assert any("memory grew" in problem for problem in tally.problems)
