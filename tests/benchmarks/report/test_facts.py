import copy

import pytest

from benchmarks.report import facts
from benchmarks.report.model import Account
from tests.benchmarks.report import reports


def test_a_run_without_a_flaw_is_sound():
    assert facts.verdict(reports.report()) == (
        "sound",
        "Sound: every request is accounted for, and the generator kept up.",
        [],
    )


def test_notes_ask_for_care():
    made = reports.report()
    made.notes = ["The generator fell behind."]
    assert facts.verdict(made)[::2] == ("careful", ["The generator fell behind."])


def test_an_interrupted_run_says_so_and_that_nothing_was_measured():
    verdict = facts.verdict(reports.interrupted())
    assert verdict.level == "careful"
    assert "interrupted after 200 ms" in verdict.reasons[0]
    assert "Nothing was measured" in verdict.reasons[1]


def test_a_run_that_something_ended_says_what():
    made = reports.report()
    made.ended = "the target was lost"
    assert facts.verdict(made).reasons == ["The run ended early, after 3 min 14 s: the target was lost"]


def test_a_generator_that_was_late_is_never_said_to_have_kept_up():
    made = reports.report()
    made.generator.behind = [(1.0, 2.0, 0.3)]
    made.generator.lag.add(0.3)
    verdict = facts.verdict(made)
    assert verdict.level == "sound"
    assert verdict.headline.endswith("the generator was late for moments, by 300 ms at worst.")
    made.notes = ["The generator fell behind itself."]
    assert facts.verdict(made)[::2] == ("careful", made.notes)


def unbalanced(made):
    made.accounting.balanced = False


def disagreeing(made):
    made.accounting.target = [Account(outcome="shed", client=5, least=5, most=6, target=9, agrees=False)]


def other_backend(made):
    made.backend.agrees = False


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unbalanced, "not the sum"),
        (disagreeing, "The target counts 9 shed; the client's view allows 5 to 6."),
        (other_backend, "The simulated backend's count does not fit"),
    ],
)
def test_what_does_not_add_up_is_broken_even_without_a_sentence_in_the_report(spoil, reason):
    made = reports.report()
    spoil(made)
    verdict = facts.verdict(made)
    assert verdict.level == "broken"
    assert reason in verdict.reasons[0]


def test_a_reason_is_said_once():
    made = reports.troubled()
    made.notes += made.accounting.problems
    reasons = facts.verdict(made).reasons
    assert len(reasons) == len(set(reasons)) == 3


def test_the_hardest_phase_is_never_warm_up():
    made = reports.report([("hot", 10_000, 4.0, True), ("half", 5_000, 0.5, False), ("double", 5_000, 2.0, False)])
    hardest = facts.hardest(made)
    assert hardest
    assert hardest.name == "double"
    assert facts.hardest(reports.interrupted()) is None


def test_refusals_of_several_phases_are_summed_and_the_report_stays_as_it_was():
    made = reports.report()
    before = copy.deepcopy(made)
    entries = facts.refusals(made.phases)
    assert [entry.where for entry in entries] == ["door", "queue"]
    for index, entry in enumerate(entries):
        of_each = [phase.refusals[index] for phase in made.phases]
        assert entry.count == sum(one.count for one in of_each)
        assert entry.latency.count == sum(one.latency.count for one in of_each)
        assert entry.latency.most == max(one.latency.most for one in of_each)
    facts.refusals(made.phases)
    assert made == before


def test_retry_after_is_asked_for_only_where_a_client_may_come_back():
    phase = reports.report().phases[-1]
    door, queue = phase.refusals
    share = facts.retry_after_share(phase.refusals)
    assert share == (door.count + queue.count // 2) / (door.count + queue.count)
    for entry in phase.refusals:
        entry.status = 400
    assert facts.retry_after_share(phase.refusals) is None


def test_groups_of_phases_are_summed():
    made = reports.report()
    groups = facts.groups(phase.kinds for phase in made.phases)
    assert [group.name for group in groups] == ["chat", "batch"]
    assert groups[0].counts.completed == sum(phase.kinds[0].counts.completed for phase in made.phases)


def test_sentences_say_what_is_not_known():
    made = reports.bare()
    assert "not known" in facts.outlived_sentence(made)
    assert "the target is on another machine" in facts.processes_sentence(made)
    assert "no metrics" in facts.accounting_sentence(made)
    assert "--backend" in facts.backend_sentence(made)
