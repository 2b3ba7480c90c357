"""What the door decides, as functions of numbers."""

RETRY_AFTER_MIN = 1.0
RETRY_AFTER_MAX = 60.0


def retry_after(waiting: int, rate: float) -> float:
    """Seconds until `waiting` requests have been taken at `rate` a second: when a refused caller should come back.

    Between 1 and 60: a rate of zero means that nothing is known but that it is bad.
    """
    if rate <= 0:
        return RETRY_AFTER_MAX if waiting else RETRY_AFTER_MIN
    return min(max(waiting / rate, RETRY_AFTER_MIN), RETRY_AFTER_MAX)
