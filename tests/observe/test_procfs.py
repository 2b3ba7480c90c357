import os

from pipeline.observe.procfs import usage


def test_tells_what_this_process_uses():
    before = usage(os.getpid())
    assert before is not None
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        after = usage(os.getpid())
    finally:
        os.close(descriptor)
    assert after is not None
    assert after.open_fds == before.open_fds + 1
    assert 5_000_000 < after.resident_bytes < 2_000_000_000
    assert after.cpu_seconds >= before.cpu_seconds > 0


def test_a_process_that_is_gone_has_no_usage():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert usage(child) is None
