"""How long to wait before a dead process is started again."""

FIRST = 0.1
LONGEST = 5.0
HEALTHY_AFTER = 30.0


class Backoff:
    """At once the first time, then 0.1 s, doubling up to 5 s; all over again after 30 s of health."""

    def __init__(self) -> None:
        self._deaths = 0

    def after(self, lived: float) -> float:
        """Seconds to wait now that a process died which was ready for `lived` seconds (0.0: never)."""
        if lived >= HEALTHY_AFTER:
            self._deaths = 0
        delay = min(FIRST * 2 ** (self._deaths - 1), LONGEST) if self._deaths else 0.0
        self._deaths += 1
        return delay
