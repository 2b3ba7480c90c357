"""The errors that end the daemon, or keep it from starting. Each message is one line for the person who tried: what,
where, and what to do.

    DaemonError
    ├── StartError
    └── NothingLeft
"""


class DaemonError(Exception):
    """The root."""


class StartError(DaemonError):
    """Headgate, or one process of it, cannot start."""


class NothingLeft(DaemonError):
    """Every shard died too often: nobody takes requests any more."""
