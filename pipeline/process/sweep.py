"""What killed processes leave in the data folder."""

from pathlib import Path

from pipeline.process.handover import inbox_path
from pipeline.process.link import Message
from pipeline.process.process import Process
from pipeline.process.relay import relay_path


class Sweep:
    """Removes the sockets of shards' processes that are gone; follows the crew. The data folder's lock must be held:
    what is there at first was left by a daemon that was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for pattern in (relay_path(folder, 0).name, inbox_path(folder, 0).name):
            for path in folder.glob(pattern.replace("-0.", "-*.")):
                path.unlink(missing_ok=True)

    def joined(self, process: Process) -> None:
        """It removes its own when it ends in good order."""

    def heard(self, process: Process, message: Message) -> None:
        """Nothing of this is said."""

    def gone(self, process: Process) -> None:
        for path in (relay_path(self._folder, process.pid), inbox_path(self._folder, process.pid)):
            path.unlink(missing_ok=True)
