"""A limit that is counted out, seen from where it is lent to shards: so much a minute, or so many at once.

What is lent counts as there until it is used, so that nothing comes in for it twice; what a shard used beyond what it
had is owed here. Who wants more than there is gets what lies unused elsewhere, and else is told that there is none.
"""

from collections import OrderedDict
from collections.abc import Mapping
from math import floor, inf

from pipeline.policy.leases_credit import Answer
from pipeline.policy.leases_division import fill
from pipeline.policy.limits import ROUNDING, TokenBucket

PATIENCE = 0.08  # seconds that somebody is kept waiting for what others have to give back
_AHEAD = 0.25  # of what is there, the most that one gets to go on with


class Count:
    """A stock that nothing uses up: so many at once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def level(self, now: float) -> float:  # noqa: ARG002 - as TokenBucket
        return float(self.number)

    def take(self, amount: float, now: float) -> None: ...


class Lending:
    """One account. `whole`: only whole units are of use; `standing`: what is asked for to go on with is a wish that
    stands, and is granted to all who have one alike. Seats are numbers of processes."""

    def __init__(self, stock: TokenBucket | Count, *, whole: bool, standing: bool) -> None:
        self.stock = stock
        self._whole = whole
        self._standing = standing
        self._out: dict[int, float] = {}
        self._asking: OrderedDict[int, tuple[float, float]] = OrderedDict()  # amount, since
        self._numbers: dict[int, int] = {}  # of the last grants with something in them
        self._recalled: dict[int, int] = {}  # the numbers of grants that have not been answered
        self._empty: set[int] = set()  # have answered, and have nothing
        self._wishes: OrderedDict[int, float] = OrderedDict()  # who was granted something longest ago first

    @property
    def lent(self) -> float:
        return sum(self._out.values())

    @property
    def waits(self) -> bool:
        """Whether somebody is to be answered later."""
        return bool(self._asking or self._wishes)

    def unused(self, now: float) -> bool:
        """Whether it is as if nobody had ever used it."""
        if self._out or self.waits:
            return False
        return isinstance(self.stock, Count) or self.stock.level(now) >= self.stock.burst

    def returned(self, seat: int, used: float, returned: float, now: float) -> None:
        """Of what was lent, or beyond it."""
        self.stock.take(used, now)
        out = self._out.get(seat, 0.0) - used - returned
        if abs(out) > ROUNDING:
            self._out[seat] = out
        else:
            self._out.pop(seat, None)

    def answered(self, seat: int, seen: int) -> None:
        """A report that was written when the grant with this number was known."""
        if self._recalled.get(seat, inf) <= seen:
            del self._recalled[seat]
            self._empty.add(seat)

    def wish(self, seat: int, amount: float, seen: int) -> None:
        """To go on with; `seen` as in `answered`: what is on its way need not be wished for."""
        if amount > ROUNDING and seen >= self._numbers.get(seat, 0):
            self._wishes.setdefault(seat, amount)
            self._wishes[seat] = amount
        else:
            self._wishes.pop(seat, None)

    def ask(self, seat: int, amount: float, now: float) -> None:
        """Somebody waits for that much more."""
        if not self._asking:
            self._empty.clear()
        self._empty.discard(seat)
        before, since = self._asking.get(seat, (0.0, now))
        self._asking[seat] = (before + amount, since)

    def gone(self, seat: int, now: float) -> None:
        """The process is dead. What it had of a limit a minute counts as used: nobody can tell."""
        self.stock.take(max(self._out.pop(seat, 0.0), 0.0), now)
        self._asking.pop(seat, None)
        self._wishes.pop(seat, None)
        self._recalled.pop(seat, None)
        self._numbers.pop(seat, None)
        self._empty.discard(seat)  # whoever takes the seat next may have something

    def shrink(self, now: float) -> dict[int, Answer]:
        """The limit has become lower than what is lent: every place that becomes free comes back, so that nobody begins
        anything before they are few enough."""
        if self.lent <= self.stock.level(now):
            return {}
        return {seat: Answer(-out, 0.0) for seat, out in self._out.items() if out > 0.0}

    def answers(self, numbers: Mapping[int, int], now: float, *, ticking: bool = False) -> dict[int, Answer]:
        """What the processes are to be told now. `numbers` are those of the grants that will carry it."""
        granted: dict[int, float] = {}
        self._serve(granted, now)
        if not self._asking:
            self._go_on(granted, now, ticking=ticking)
        recalled = self._recall(numbers)
        refused = self._refused(granted, now)
        level = self.stock.level(now)
        free = level - self.lent
        answers: dict[int, Answer] = {}
        self._numbers.update({seat: numbers[seat] for seat in granted})
        for seat in sorted(granted.keys() | recalled | refused):
            left = free if seat in refused else level - self._out.get(seat, 0.0)
            answers[seat] = Answer(granted.get(seat, 0.0), left, seat in recalled, max(len(self._wishes), 1))
        return answers

    def _serve(self, granted: dict[int, float], now: float) -> None:
        free = self.stock.level(now) - self.lent
        for seat, (amount, _) in list(self._asking.items()):
            if amount <= free + ROUNDING:
                del self._asking[seat]
                self._lend(seat, amount, granted)
                free -= amount

    def _go_on(self, granted: dict[int, float], now: float, *, ticking: bool) -> None:
        free = self.stock.level(now) - self.lent
        wishes = list(self._wishes.items())
        amounts = [amount for _, amount in wishes]
        if not self._standing:
            self._wishes.clear()
            amounts = [min(amount, free * _AHEAD) for amount in amounts]
        elif sum(amounts) > free:
            amounts = fill(free, amounts, [1.0] * len(amounts)) if ticking else []
        rest = floor(free + ROUNDING) - sum([floor(amount + ROUNDING) for amount in amounts]) if self._whole else 0
        for (seat, wish), amount in zip(wishes, amounts, strict=False):
            if self._whole:
                whole = floor(amount + ROUNDING)
                if self._standing and rest > 0 and whole + 1 <= wish:
                    whole, rest = whole + 1, rest - 1
                amount = float(whole)  # noqa: PLW2901
            if amount > ROUNDING:
                self._lend(seat, amount, granted)
                self._granted_wish(seat, amount)

    def _granted_wish(self, seat: int, amount: float) -> None:
        wish = self._wishes.pop(seat, 0.0) - amount
        if self._standing and wish > ROUNDING:
            self._wishes[seat] = wish  # behind the others

    def _recall(self, numbers: Mapping[int, int]) -> set[int]:
        """Whose unused part somebody else needs."""
        if self._asking:
            spared = {next(iter(self._asking))}
        elif self._standing and self._wishes:
            spared = set(self._wishes)
        else:
            return set()
        recalled = {
            seat
            for seat, out in self._out.items()
            if out > ROUNDING and seat not in spared and seat not in self._recalled and seat not in self._empty
        }
        for seat in recalled:
            self._recalled[seat] = numbers[seat]
        return recalled

    def _refused(self, granted: dict[int, float], now: float) -> set[int]:
        """Who need not wait any longer. The first of them gets what there is, though it is less."""
        refused = {
            seat for seat, (_, since) in self._asking.items() if not self._recalled or not 0.0 <= now - since < PATIENCE
        }
        for seat in list(self._asking):
            if seat in refused:
                del self._asking[seat]
                free = max(self.stock.level(now) - self.lent, 0.0)
                free = float(floor(free + ROUNDING)) if self._whole else free
                if free > ROUNDING:
                    self._lend(seat, free, granted)
        return refused

    def _lend(self, seat: int, amount: float, granted: dict[int, float]) -> None:
        self._out[seat] = self._out.get(seat, 0.0) + amount
        granted[seat] = granted.get(seat, 0.0) + amount
