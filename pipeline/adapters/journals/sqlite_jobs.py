"""What writers are asked for, as data. Values are encoded already: who asks may change them afterwards."""

from collections.abc import Sequence

import msgspec

from pipeline.adapters.journals import codec
from pipeline.workflow.journal import AnyEntry, Bundle, Registered, Rewound, RunRecord, Signalled, StateChanged


class Draft(msgspec.Struct, frozen=True):
    """An entry to be. `change` where it changes the run's row; `restricted`: only the lease's holder may say it, while
    there is one; `again`: a run that has ended is to go on."""

    at: float
    data: bytes
    change: StateChanged | None = None
    restricted: bool = False
    wakes: bool = False
    again: bool = False


def drafted(entry: AnyEntry) -> Draft:
    """Raises `ValueError` for what is not JSON."""
    data = codec.encode(entry)
    if isinstance(entry, StateChanged):
        return Draft(entry.at, data, entry, restricted=True)
    again = isinstance(entry, Rewound)
    return Draft(entry.at, data, None, restricted=again, wakes=isinstance(entry, Signalled), again=again)


class Append(msgspec.Struct, frozen=True):
    """`holder` None: without a lease."""

    run: str
    holder: str | None
    epoch: int
    drafts: Sequence[Draft]


class Create(msgspec.Struct, frozen=True):
    run: RunRecord
    made: bytes
    inputs: bytes | None
    first: Draft
    bundle: Bundle
    take: bool


class Claim(msgspec.Struct, frozen=True):
    """`due` None: whatever state the run is in."""

    runs: Sequence[str]
    due: float | None = None


class Release(msgspec.Struct, frozen=True):
    run: str
    epoch: int


class ReleaseAll(msgspec.Struct, frozen=True):
    pass


class Register(msgspec.Struct, frozen=True):
    workflow: Registered


class Doom(msgspec.Struct, frozen=True):
    """Deletes the rows of runs that ended before; their entries follow."""

    before: float
    limit: int


class Purge(msgspec.Struct, frozen=True):
    """Deletes some of what doomed runs left; tells whether there is more."""


class Shrink(msgspec.Struct, frozen=True):
    """Gives some free pages back to the disk where there are many; tells whether there are more."""


class Check(msgspec.Struct, frozen=True):
    """Whether it can be written."""


Job = Append | Create | Claim | Release | ReleaseAll | Register | Doom | Purge | Shrink | Check
