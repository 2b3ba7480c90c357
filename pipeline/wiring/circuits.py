"""What the log says of circuits: that one opened, and closed, and in between each call that was tried in vain."""

from collections.abc import Callable

import structlog

from pipeline.policy.breaker import BreakerState
from pipeline.policy.replica import Replica

_log = structlog.get_logger()


class CircuitLog:
    """To be called whenever the circuit to a replica of `worker` has opened or closed. `clock` is the pool's."""

    def __init__(self, worker: str, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._clock = clock
        self._open: set[Replica] = set()

    def __call__(self, replica: Replica) -> None:
        if replica.breaker.state is BreakerState.CLOSED:
            self._open.discard(replica)
            _log.info("circuit_closed", worker=self._worker, replica=replica.name)
            return
        wait = round(replica.breaker.wait(self._clock()), 3)
        told = {"kind": replica.fault or "left", "failures": replica.failures, "wait_s": wait}
        if replica in self._open:
            _log.info("circuit_still_open", worker=self._worker, replica=replica.name, **told)
        else:
            self._open.add(replica)
            _log.warning("circuit_opened", worker=self._worker, replica=replica.name, **told)
