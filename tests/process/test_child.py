import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.process.daemon import ROOT, gone

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
CHILD = """
import os, time
from pipeline.process.child import _die_with
_die_with({parent})
print("listening to nothing", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
async def test_a_child_that_does_not_listen_yet_dies_with_the_supervisor():
    script = CHILD.format(parent="os.getppid()")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    try:
        assert await gone([child], 2)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_child_whose_supervisor_died_before_it_could_ask_ends():
    done = subprocess.run([sys.executable, "-c", CHILD.format(parent="1 << 30")], cwd=ROOT, check=False, timeout=20)
    assert done.returncode == 1
