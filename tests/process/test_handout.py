import os
from pathlib import Path

from config.load import decode
from pipeline.observe.layout import Counted
from pipeline.process.handout import handout, read
from tests.flows import config

FIRST = config(routes=[{"name": "one", "worker": "echo"}])
SECOND = config(routes=[{"name": "two", "worker": "echo"}])


def test_a_child_reads_what_was_in_force_when_it_was_born():
    history = [Counted({"one": ["echo"]}, {"echo": ["0"]})]
    with handout(FIRST, history) as file:
        early = os.dup(file.descriptor)  # as a child that is born now inherits it
        assert file.edition == 0
        file.renew(SECOND, [*history, Counted({"two": ["echo"]})])
        late = os.dup(file.descriptor)
        assert file.edition == 1
    old, new = read(early), read(late)
    assert decode(old.config) == FIRST
    assert old.layout == history
    assert decode(new.config) == SECOND
    assert new.layout == [*history, Counted({"two": ["echo"]})]


def test_several_may_read_it():
    with handout(FIRST, []) as file:
        both = [os.dup(file.descriptor) for _ in range(2)]
    assert [decode(read(descriptor).config) for descriptor in both] == [FIRST, FIRST]


def test_renewing_leaves_no_descriptor_behind():
    with handout(FIRST, []) as file:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            file.renew(SECOND, [])
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert not os.get_inheritable(file.descriptor)
