"""The daemon's processes: the supervisor, which owns port, data folder and counters, and the children of its own."""
