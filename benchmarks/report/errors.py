"""What can go wrong with reports.

ReportError
├── CannotWrite     the file could not be written: folder, permission, full disk
├── CannotRead      the file is missing, is no report, or is one of another format
├── NotFinite       a figure is NaN or infinite, which JSON cannot say
└── NeedsPlotly     a page was asked for and plotly is not installed
"""

from pathlib import Path


class ReportError(Exception):
    pass


class CannotWrite(ReportError):
    """Raised before a run by `check_writable`, and when the writing fails. Nothing is left behind at `path`, and what
    stood there before is unharmed; a device or pipe may have taken a part."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}")
        self.path = path
        self.reason = reason


class CannotRead(ReportError):
    """Raised by `read` for whatever is not a whole report of the format that this version writes."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason


class NotFinite(ReportError):
    """Raised by `write`: a mistake in who made the report. `field` says where, as `phases[0].goodput`."""

    def __init__(self, field: str, value: float) -> None:
        super().__init__(f"{field} is {value}: a report holds finite numbers only")
        self.field = field
        self.value = value


class NeedsPlotly(ReportError):
    """Raised when an HTML page is made where plotly is not installed."""

    def __init__(self) -> None:
        super().__init__("the HTML page needs plotly, which is not installed: pip install 'headgate[bench]'")
