"""Tokens before a call: by a tokenizer's file, by the backend, by an estimate that learns."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import EchoWorker
from tests.servers import TinyLlama
from tests.workers.helpers import ask, openai_section, openai_worker, told
from workers.base import GenerationRequest, Parameters
from workers.counting import HIGHEST, LOWEST, Counter, calibrated, counter_of, load_tokenizer
from workers.errors import WorkerError, WorkerErrorKind, WorkerUnavailable
from workers.tokens import estimate

REQUEST = GenerationRequest("r1", None, "m", (), Parameters(), stream=True)


class Server:
    """A worker that counts as it is told; what it is told to raise, it raises."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        self.asked += 1
        answer = self.answers.pop(0)
        if answer == "hang":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]


def learnt(counter: Counter, ratios: list[float], counted: int = 1000) -> float:
    for ratio in ratios:
        counter.learn(counted, round(counted * ratio))
    return counter.factor


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 300 tokens, with truncation and padding as model cards ship them."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["the ferry leaves the quay " * 20], trainer)
    made.enable_truncation(8)
    made.enable_padding(length=64)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return file


def test_a_higher_ratio_is_followed_in_a_few_calls_and_a_lower_one_in_hundreds():
    counter = Counter()
    assert learnt(counter, [2.0] * 12) > 1.95
    assert learnt(counter, [1.0] * 12) > 1.8
    assert learnt(counter, [1.0] * 400) < 1.05


def test_of_mixed_prompts_it_stays_near_the_longest():
    assert learnt(Counter(), [1.0, 1.0, 1.0, 1.6] * 100) > 1.4


def test_what_is_no_matter_of_text_teaches_nothing():
    counter = Counter()
    counter.learn(40, 90)  # a short prompt: half of it is the chat template's
    counter.learn(1000, 20_000)  # an image
    counter.learn(1000, 12)  # a server that leaves out what it had cached
    counter.learn(0, 50)
    assert counter.factor == 1.0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(-5, 10**8)), max_size=50))
def test_the_factor_stays_within_its_bounds(calls: list[tuple[int, int]]):
    factor = 1.0
    for counted, reported in calls:
        factor = calibrated(factor, counted, reported)
        assert LOWEST <= factor <= HIGHEST


async def test_replicas_are_asked_in_turn():
    one, two = Server(5, 7), Server(6)
    counter = counter_of(EchoWorker(name="w"), [one, object(), two])
    assert counter.asks
    assert [await counter.ask(REQUEST, 1.0) for _ in range(3)] == [5, 6, 7]


@pytest.mark.parametrize("answer", [None, 0, -3, "hang", WorkerError(WorkerErrorKind.UNREACHABLE, "refused")], ids=repr)
async def test_a_server_that_does_not_tell_is_left_alone_for_a_while(answer: object):
    now = 0.0
    counter = Counter(ask=Server(answer, 9).count_tokens, clock=lambda: now)
    assert await counter.ask(REQUEST, 0.01) is None
    assert not counter.asks
    now = 31.0
    assert counter.asks
    assert await counter.ask(REQUEST, 0.01) == 9
    assert counter.asks


async def test_a_request_that_cannot_be_counted_silences_nobody():
    counter = Counter(ask=Server(WorkerError(WorkerErrorKind.BAD_REQUEST, "no such tool"), 9).count_tokens)
    assert await counter.ask(REQUEST, 1.0) is None
    assert counter.asks
    assert await counter.ask(REQUEST, 1.0) == 9


async def test_a_client_that_leaves_while_the_server_is_asked_silences_nobody():
    counter = Counter(ask=Server("hang").count_tokens)
    asking = asyncio.create_task(counter.ask(REQUEST, 10.0))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert counter.asks


def test_what_was_learnt_outlives_the_worker_that_taught_it():
    before = counter_of(EchoWorker(name="w"), [])
    learnt(before, [2.0] * 5)
    assert counter_of(EchoWorker(name="w"), [], before).factor == before.factor > 1.5


def test_a_tokenizer_counts_exactly_and_asks_and_learns_nothing(bpe: Path):
    counter = counter_of(EchoWorker(name="w", tokenizer=str(bpe)), [Server(1)])
    assert counter.count("the ferry") == 2
    assert counter.count("") == 0
    assert counter.count("the ferry " * 400) == 801  # as if the file truncated nothing; the last blank is one more
    assert not counter.asks
    assert learnt(counter, [3.0] * 20) == 1.0


def test_a_long_text_is_counted_in_pieces_and_a_huge_one_in_part(bpe: Path):
    count = load_tokenizer(bpe)
    assert count("the ferry " * 20_000) == pytest.approx(40_000, rel=0.01)
    huge = "the ferry " * 300_000
    began = time.process_time()
    assert count(huge) == pytest.approx(600_000, rel=0.01)
    assert time.process_time() - began < 3.0  # all of it takes three times as long


@pytest.mark.slow
async def test_a_real_server_tells_what_it_will_report_and_the_estimate_learns_it(llama: TinyLlama):
    section = openai_section(llama.base_url)
    worker = openai_worker(section)
    counter = counter_of(section, [worker])
    text = "w1 w2 w3 w4 " * 100  # a token of ours is less than one of this model's
    asked = ask(text, stream=False, max_tokens=1)
    try:
        tokens = await counter.ask(asked, 5.0)
        (usage,) = (await told(worker, asked)).usages
    finally:
        await worker.aclose()
    assert tokens == usage.prompt_tokens
    counted = counter.count(text)
    for _ in range(20):
        counter.learn(counted, usage.prompt_tokens)
    assert counter.factor == pytest.approx(usage.prompt_tokens / counted, rel=0.02)


def test_text_that_is_no_unicode_is_counted(bpe: Path):
    count = load_tokenizer(bpe)
    assert count("\ud800") == 1
    assert count("\ud800" * 5000) == 5000


def test_other_threads_run_while_it_counts(bpe: Path):
    count = load_tokenizer(bpe)
    text = "the ferry leaves " * 20_000
    turns, done = 0, threading.Event()

    def work() -> None:
        count(text)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 1000


def test_without_anything_it_is_the_plain_estimate():
    counter = counter_of(EchoWorker(name="w"), [])
    assert counter.count is estimate
    assert not counter.can_ask


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    file.write_text('{"version": "1.0"}')
    with pytest.raises(WorkerUnavailable, match=r"^tokenizer: .*tokenizer\.json"):
        load_tokenizer(file)


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(WorkerUnavailable, match=r"headgate\[tokenizers\]") as caught:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert caught.value.key == "tokenizer"


@pytest.mark.parametrize(("file", "found"), [("/dev/zero", "/dev/zero: is a device"), ("/", "/: is a directory")])
def test_a_tokenizer_that_is_no_file(file, found):
    with pytest.raises(WorkerUnavailable) as raised:
        load_tokenizer(Path(file))
    assert (raised.value.key, raised.value.found) == ("tokenizer", found)
