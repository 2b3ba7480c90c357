"""`make smoke`: a fresh backend, Headgate before it, and two minutes of mixed load that have to add up.

What is given on the command line is passed on to `headgate bench` (`--duration 10`).
"""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.load import reading
from benchmarks.peers.backend import simulated
from benchmarks.peers.gateway import CannotStart
from benchmarks.peers.headgate import Headgate
from benchmarks.peers.interrupt import Interrupt, Interrupted
from benchmarks.peers.process import Server
from benchmarks.service import Service

SCENARIO = "smoke"
RESULTS = Path("bench-results")
