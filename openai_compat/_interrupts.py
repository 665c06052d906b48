"""Exceptions that a signal's handler raised: they end a task, whoever's code they happen to interrupt."""

from __future__ import annotations

import signal

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGALRM", "SIGINT", "SIGPROF", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGVTALRM")
    if hasattr(signal, name)
]


def interrupts(error: BaseException) -> bool:
    """Whether a signal's handler raised it, such as a task's time limit: it is not what it interrupted that failed."""
    codes = [getattr(signal.getsignal(number), "__code__", None) for number in _SIGNALS]
    step = error.__traceback__
    while step is not None:
        if any(step.tb_frame.f_code is code for code in codes):
            return True
        step = step.tb_next
    return False
