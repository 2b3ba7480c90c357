from benchmarks.simulated.log import Log


def fill(log: Log, run: str, count: int) -> None:
    for number in range(count):
        log.ended(log.arrived(run, number, 1.0), "served", 2.0, held=1.0, tokens=3)


def test_a_row_says_what_became_of_a_request():
    log = Log()
    served, gone, _ = (log.arrived("a", number, 10.0) for number in range(3))
    log.started(served, 11.0)
    log.ended(served, "served", 12.5, held=1.5, tokens=4)
    log.left_the_line(gone, 13.0)
    assert list(log.run("a").rows(100.0)) == [
        [0, 110.0, 111.0, 112.5, 1.5, "served"],
        [1, 110.0, None, 113.0, 0.0, "cancelled"],
        [2, 110.0, None, None, 0.0, "running"],
    ]
    counts = log.run("a").counts
    assert counts == log.counts
    assert (counts.arrivals, counts.served, counts.cancelled, counts.cancelled_waiting) == (3, 1, 1, 1)
    assert (counts.tokens, counts.busy_seconds) == (4, 1.5)


def test_runs_are_counted_apart():
    log = Log()
    fill(log, "a", 2)
    fill(log, "b", 3)
    assert (log.counts.served, log.run("a").counts.served, log.run("b").counts.served) == (5, 2, 3)
    assert log.run("c").counts.arrivals == 0
    assert not list(log.run("c").rows(0.0))


def test_the_oldest_run_makes_room():
    log = Log(most_rows=10)
    fill(log, "a", 6)
    fill(log, "b", 4)
    under_way = log.arrived("b", 9, 1.0)
    assert (len(list(log.run("a").rows(0.0))), log.run("a").left_out) == (0, 6)
    assert (len(list(log.run("b").rows(0.0))), log.run("b").left_out) == (5, 0)
    assert log.run("a").counts.served == 6
    fill(log, "a", 9)
    log.ended(under_way, "served", 2.0)  # its row is gone by now
    assert log.run("b").left_out == 5
    assert log.run("b").counts.served == 5
    assert (len(list(log.run("a").rows(0.0))), log.run("a").left_out) == (9, 6)


def test_a_run_does_not_push_out_itself():
    log = Log(most_rows=3)
    fill(log, "a", 5)
    assert [row[0] for row in log.run("a").rows(0.0)] == [0, 1, 2]
    assert log.run("a").left_out == 2
    assert log.run("a").counts.served == 5


def test_the_number_of_runs_is_bounded():
    log = Log(most_rows=100, most_runs=2)
    for run in "abc":
        fill(log, run, 40)
    assert log.run("a").counts.arrivals == 0
    assert [len(list(log.run(run).rows(0.0))) for run in "abc"] == [0, 40, 40]
    fill(log, "c", 20)  # the rows of the run that was forgotten count no more
    assert [log.run(run).left_out for run in "bc"] == [0, 0]
