"""Exceptions that a signal's handler raised: they end a task, whoever's code they happen to interrupt."""

from __future__ import annotations

_SIGNALS = ("SIGALRM", "SIGINT", "SIGPROF", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGVTALRM")


def interrupts(error: BaseException) -> bool:
    """Whether a signal's handler raised it, such as a task's time limit: it is not what it interrupted that failed."""
    import signal

    handlers = [signal.getsignal(getattr(signal, name)) for name in _SIGNALS if hasattr(signal, name)]
    codes = [getattr(handler, "__code__", None) for handler in handlers]
    step = error.__traceback__
    while step is not None:
        if any(step.tb_frame.f_code is code for code in codes):
            return True
        step = step.tb_next
    return False
