"""The one error that keeps the daemon from starting."""


class StartError(Exception):
    """Headgate cannot start; the message is one line for the person who tried: what, where, and what to do."""
