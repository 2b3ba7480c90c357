"""What the admin API says of usage: `GET /usage?by=key,route,worker`."""

from pipeline.observe.usage import DIMENSIONS, Counts, UsageTable
from pipeline.process.admin_errors import BadCall
from pipeline.process.admin_http import Call, no_query
from pipeline.process.admin_types import UsageFigures, UsageRow, UsageStatus


def usage(call: Call, table: UsageTable, uptime_s: float) -> UsageStatus:
    """Raises BadCall."""
    no_query(call, "by")
    by = _dimensions(call.query.get("by", ",".join(DIMENSIONS)))
    rows = [UsageRow(**names, figures=_figures(counts)) for names, counts in table.grouped(by)]
    return UsageStatus(uptime_s, rows, _figures(table.total()))


def _dimensions(given: str) -> list[str]:
    """Each once, in whatever order they are named."""
    asked = given.split(",")
    for name in asked:
        if name not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise BadCall("invalid_value", f"by must be some of {known}, with commas, not {name[:80]!r}", param="by")
    return [name for name in DIMENSIONS if name in asked]


def _figures(counts: Counts) -> UsageFigures:
    return UsageFigures(*(getattr(counts, name) for name in UsageFigures.__struct_fields__))
