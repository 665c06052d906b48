"""How much calls may cost in all: what is spent, what calls under way may still cost, and who has to wait."""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ..errors import (
    APIStatusError,
    APITimeoutError,
    BudgetExceededError,
    Cancelled,
    ConfigurationError,
    StreamServerError,
    UnknownPriceError,
)
from ..timeouts import Deadline
from ..wire.messages import Usage
from ..wire.prices import Charge, cost_of, counted, known_cost, tells_tokens
from .current import in_force
from .estimate import input_tokens, most_output_tokens, text_tokens

if TYPE_CHECKING:
    from typing import Self

    from ..wire.response import CallInfo
    from .limits import Answer, Permit

USUAL_OUTPUT = 1000
"""Tokens that are reserved for an answer where ``max_tokens`` says nothing, and no longer one has come."""
CAUTION = 4 / 3
"""Input is reserved at one token for three bytes, not for four."""
GLANCE = 0.05
"""Seconds after which a wait looks whether its call was cancelled."""
ROUNDING = 1e-9
"""Of a budget: sums of fractions are not exact."""


class Spent:
    """What has been spent, up to now: it goes on counting.

    Also what failed calls cost where it is known, or has to be feared.
    """

    def __init__(self) -> None:
        self.usd: float = 0.0
        """US dollars, of all answers whose price is known."""
        self.tokens: int = 0
        """Of prompts and answers."""
        self.requests: int = 0
        """That were answered, or may have been."""
        self.unpriced: int = 0
        """How many of these have no known price."""

    def __str__(self) -> str:
        return f"${self.usd:.4f}, {self.tokens:,} tokens, {self.requests:,} request{'s' * (self.requests != 1)}"

    def __repr__(self) -> str:
        return f"<Spent: {self}>"


class _Claim(NamedTuple):
    """What a call under way may cost; without a price its dollars are 0."""

    usd: float
    tokens: int
    thread: int
    process: int


class _Sum(NamedTuple):
    """Of one unit: the budget, what is spent, what calls under way may cost, and what this one may."""

    unit: Literal["usd", "tokens"]
    limit: float
    spent: float
    reserved: float
    asked: float


class Budget:
    """How much may be spent in all, by all clients that are given this object, and by all calls within its ``with``.

    Before a request is sent, what it may cost is reserved: an estimate of its input, and ``max_tokens`` of output (1000
    where it sets none, or as many as the longest answer had). Where that does not fit beside what is reserved for calls
    under way, it waits until they have been answered; where it does not fit beside what is spent, it is not sent.
    Answers count with the usage and the cost that the server tells.

    As a context manager it holds for the calls in the block, those of ``submit``, ``map`` and tools included, whose
    threads begin there; it gives what is ``spent``. A budget inside another counts in both.

    Args:
        usd: US dollars. The price of each model that is asked must be known.
        tokens: of prompts and answers together.

    Raises:
        ConfigurationError: a limit that is no positive number.
    """

    def __init__(self, *, usd: float | None = None, tokens: float | None = None) -> None:
        for name, limit in (("usd", usd), ("tokens", tokens)):
            is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
            if limit is not None and not (is_number and 0 < limit <= sys.float_info.max):
                raise ConfigurationError(f"budget: {name} must be a positive number, not {limit!r}")
        self.usd: float | None = usd
        self.tokens: float | None = tokens
        self.spent: Spent = Spent()
        # Weak: a call that a Ctrl-C let slip in the instant after it reserved is as good as over.
        self._claims: weakref.WeakKeyDictionary[BudgetPermit, _Claim] = weakref.WeakKeyDictionary()
        self._longest = USUAL_OUTPUT

    def __repr__(self) -> str:
        limits = ", ".join(f"{name}={limit:g}" for name in ("usd", "tokens") if (limit := getattr(self, name)))
        return f"Budget({limits}: {self.spent})"

    def __enter__(self) -> Spent:
        in_force.set((*in_force.get(), self))
        return self.spent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        budgets = in_force.get()
        if self in budgets:
            last = len(budgets) - 1 - budgets[::-1].index(self)
            in_force.set(budgets[:last] + budgets[last + 1 :])

    def __reduce__(self) -> tuple[Any, ...]:
        # What was spent so far belongs to this process.
        return _restored, (self.usd, self.tokens)

    # All of these with the lock.

    def _sums(self, claim: _Claim) -> Iterable[_Sum]:
        here = [one for one in self._under_way() if one.process == claim.process]
        if self.usd is not None:
            yield _Sum("usd", self.usd, self.spent.usd, math.fsum(one.usd for one in here), claim.usd)
        if self.tokens is not None:
            yield _Sum("tokens", self.tokens, self.spent.tokens, sum(one.tokens for one in here), claim.tokens)

    def _no_room(self, claim: _Claim, *, now: bool) -> _Sum | None:
        """Where there is no room; with ``now`` none beside calls under way, else none at all."""
        for sums in self._sums(claim):
            if sums.spent + sums.asked + (sums.reserved if now else 0.0) > sums.limit * (1 + ROUNDING):
                return sums
        return None

    def _holders(self, claim: _Claim) -> set[int]:
        """The threads of calls under way that may leave room."""
        return {one.thread for one in self._under_way() if one.process == claim.process} - _waiting

    def _under_way(self) -> list[_Claim]:
        return list(self._claims.values())  # at once: the garbage collector may end one

    def _count(self, usd: float | None, tokens: int, output: int) -> None:
        self.spent.usd += usd or 0.0
        self.spent.tokens += tokens
        self.spent.requests += 1
        self.spent.unpriced += usd is None
        self._longest = max(self._longest, output)


def budget(*, usd: float | None = None, tokens: float | None = None) -> Budget:
    """A ``Budget`` for a block: ``with budget(usd=1) as spent: ...``; without a limit it only counts."""
    return Budget(usd=usd, tokens=tokens)


def _restored(usd: float | None, tokens: float | None) -> Budget:
    return Budget(usd=usd, tokens=tokens)


# One for all budgets, as a call reserves in several at once. Reentrant: the garbage collector may end a stream in here.
_changed = threading.Condition(threading.RLock())
_waiting: set[int] = set()


def _begin_anew() -> None:
    """In a forked child: it has none of its parent's calls, and of its lock only a copy."""
    global _changed
    _changed = threading.Condition(threading.RLock())
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class Sender(Protocol):
    """The call that a permit is for."""

    deadline: Deadline
    sent: bool


class BudgetPermit:
    """A context manager around each try of a call: reserves what it may cost, and counts what it did.

    Args:
        budgets: that have to have room.
        body: what is sent.
        info: who is asked, and by which price.
        inner: of the client's limits.
    """

    def __init__(
        self,
        budgets: Iterable[Budget],
        body: Mapping[str, Any],
        call: Sender,
        info: CallInfo,
        inner: Permit | None = None,
    ) -> None:
        self._budgets = tuple(dict.fromkeys(budgets))
        self._body, self._info, self._inner = body, info, inner
        self._deadline = call.deadline
        self._call = weakref.ref(call)
        self._claim: _Claim | None = None
        self._input = 0
        self._partial: Answer | None = None

    def __enter__(self) -> Self:
        """Reserve, and wait for the limits.

        Raises:
            BudgetExceededError: there is no room.
            UnknownPriceError: a budget is in dollars, and the price is not known.
            APITimeoutError: the call's total time is over first.
            Cancelled: by the call's token.
        """
        self._partial = None
        try:
            self._reserve(self._needs())
            if self._inner is not None:
                self._inner.__enter__()
        except BaseException:
            self._release()
            raise
        return self

    def settle(self, answer: Answer) -> None:
        """The try was answered and is over: count what it cost."""
        if self._inner is not None:
            self._inner.settle(answer)
        self._count(answer)

    def cut_off(self, answer: Answer) -> None:
        """The answer will not be whole, and this much has come."""
        self._partial = answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._inner is not None:
                self._inner.__exit__(kind, error, traceback)
        finally:
            partial = self._partial or getattr(error, "partial", None)
            call = self._call()
            refused = isinstance(error, (APIStatusError, StreamServerError)) and not (partial and _text(partial))
            if self._claim is not None and call is not None and call.sent and not refused:
                self._count(partial, whole=False)
            self._release()

    def _needs(self) -> _Claim:
        usual = max(budget._longest for budget in self._budgets)
        self._input = math.ceil(input_tokens(self._body) * CAUTION)
        outputs = most_output_tokens(self._body, usual)
        usd = 0.0
        if any(budget.usd is not None for budget in self._budgets):
            cost = self._priced(outputs)
            if cost is None:
                raise UnknownPriceError(
                    f"a budget in dollars needs the price of {self._info.model!r} at {self._info.provider}, which is "
                    "not known: give Client(prices={model: Price(input=..., output=...)}), or a budget in tokens"
                )
            usd = cost
        return _Claim(usd, self._input + outputs, threading.get_ident(), os.getpid())

    def _priced(self, outputs: int) -> float | None:
        return cost_of(self._charges(outputs))

    def _known(self, outputs: int) -> float | None:
        return known_cost(self._charges(outputs))

    def _charges(self, outputs: int) -> list[Charge]:
        return [self._info.charge(Usage(input_tokens=self._input, output_tokens=outputs))]

    def _reserve(self, claim: _Claim) -> None:
        with _changed:
            while True:
                for budget in self._budgets:
                    if (never := budget._no_room(claim, now=False)) is not None:
                        raise _exceeded(never)
                full = [(one, why) for one in self._budgets if (why := one._no_room(claim, now=True)) is not None]
                if not full:
                    break
                for one, why in full:
                    # A stream that this thread is reading, or a call that waits as this one does, leaves no room.
                    if not one._holders(claim) - {claim.thread}:
                        raise _exceeded(why)
                self._wait(claim.thread)
            self._claim = claim
            for budget in self._budgets:
                budget._claims[self] = claim

    def _wait(self, thread: int) -> None:
        if self._deadline.cancelled:
            raise Cancelled
        if self._deadline.left == 0:
            total = self._deadline.timeout.total
            raise APITimeoutError(f"the budget had no room for it within {total:g} s (timeout: total)", phase="total")
        _waiting.add(thread)
        try:
            _changed.wait(self._deadline.within(GLANCE))
        finally:
            _waiting.discard(thread)

    def _count(self, answer: Answer | None, *, whole: bool = True) -> None:
        """Count an answer, or as much as has come of it; where nobody tells what it cost, what was reserved."""
        claim = self._claim
        if claim is None:
            return
        usage = None if answer is None else answer.usage
        usd: float | None
        if answer is not None and usage is not None and tells_tokens(usage) and (whole or usage.output_tokens):
            count = counted(usage)
            output, tokens, usd = count.output, count.input + count.output, known_cost(answer.charges)
        elif answer is not None and not whole:
            output = text_tokens(_text(answer))
            tokens, usd = self._input + output, self._known(output)
        else:
            output, tokens, usd = 0, claim.tokens, self._known(claim.tokens - self._input)
        with _changed:
            for budget in self._budgets:
                budget._count(usd, tokens, output)
            self._release()

    def _release(self) -> None:
        """What was reserved is free again."""
        if self._claim is None:
            return
        with _changed:
            self._claim = None
            for budget in self._budgets:
                budget._claims.pop(self, None)
            _changed.notify_all()


def _text(answer: Answer) -> str:
    return str(getattr(answer, "text", "")) + str(getattr(answer, "reasoning", ""))


def _exceeded(sums: _Sum) -> BudgetExceededError:
    def told(amount: float) -> str:
        return f"${amount:,.6g}" if sums.unit == "usd" else f"{amount:,.0f} tokens"

    under_way = f", {told(sums.reserved)} reserved for calls under way" if sums.reserved else ""
    return BudgetExceededError(
        f"the budget of {told(sums.limit)} has no room for this call, which was not sent: {told(sums.spent)} spent"
        f"{under_way}, and it may cost {told(sums.asked)}, with as many tokens of output as max_tokens allows",
        **sums._asdict(),
    )
