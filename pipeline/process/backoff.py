"""How long to wait before a dead process is started again."""

FIRST = 0.1
LONGEST = 5.0
HEALTHY_AFTER = 30.0


class Backoff:
    """At once the first time, then 0.1 s, doubling up to 5 s; all over again after 30 s of health.

    `deaths` is how often the process died in a row.
    """

    def __init__(self) -> None:
        self.deaths = 0

    def after(self, lived: float) -> float:
        """Seconds to wait now that a process died which was ready for `lived` seconds (0.0: never)."""
        if lived >= HEALTHY_AFTER:
            self.deaths = 0
        delay = min(FIRST * 2 ** (self.deaths - 1), LONGEST) if self.deaths else 0.0
        self.deaths += 1
        return delay
