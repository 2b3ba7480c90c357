"""Controlled delay: tells a queue that stands from one that takes up a burst, by how long its items waited.

After Nichols and Jacobson, "Controlling Queue Delay" (ACM Queue 10(5), 2012; RFC 8289): when every item of an interval
has waited longer than `target`, the queue stands, and items that have waited twice that are dropped as they are taken,
the next one ever sooner (`interval / sqrt(dropped)`), until one has waited for less.

What sends requests here does not slow down for one drop as TCP does. So a queue that stands is also made short where
requests come in: while `standing`, only what would wait for `target` is let in, and that ends when the queue has been
empty, which is what a queue that stands never is (after Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
"""

from math import sqrt

DROP = 2.0  # times the target


class CoDel:
    """`interval` in seconds. Belongs to one queue; times are the caller's."""

    __slots__ = ("_above_since", "_dropped", "_dropping", "_next", "interval", "standing")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.standing = False
        self._above_since: float | None = None
        self._dropping = False
        self._dropped = 0
        self._next = 0.0

    def emptied(self) -> None:
        """Nothing waits any more."""
        self.standing = False
        self._dropping = False
        self._above_since = None

    def drops(self, sojourn: float, target: float, now: float) -> bool:
        """Whether an item that has waited `sojourn` seconds and is now at its turn is to be dropped. Not to be asked
        about the last one: dropping that would help nobody."""
        if sojourn < target:
            self._above_since = None
            self._dropping = False
            return False
        if self._above_since is None or now < self._above_since:  # the clock has jumped
            self._above_since = now
        if now - self._above_since < self.interval:
            return False
        self.standing = True
        if sojourn < DROP * target:  # the door, which now admits less, will do
            return False
        if not self._dropping:
            self._start(now)
            return True
        if now < self._next:
            return False
        self._dropped += 1
        self._next += self.interval / sqrt(self._dropped)
        return True

    def _start(self, now: float) -> None:
        """Goes on near the rate at which it stopped, if that was not long ago (RFC 8289, section 4.3)."""
        recent = self._dropped > 2 and now - self._next < 16 * self.interval
        self._dropped = self._dropped - 2 if recent else 1
        self._dropping = True
        self._next = now + self.interval / sqrt(self._dropped)
