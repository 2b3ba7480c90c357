import os
import signal

import pytest

from benchmarks.peers.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        interrupt.tick()
        os.kill(os.getpid(), number)
        assert interrupt.count == 1
        with pytest.raises(Interrupted):
            interrupt.tick()
        os.kill(os.getpid(), number)
        assert interrupt.count == 2
    assert signal.getsignal(number) == before
