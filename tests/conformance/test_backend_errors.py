"""Whatever kind a backend is of, what it complains about comes out as one of the same few kinds of errors."""

import pytest

from tests.conformance.backends.kinds import SPEAKERS, ask, calling, failed, over, streamed_or_whole, told
from tests.conformance.backends.speaker import SECRET, Answers, ErrorInside, HttpSpeaker, Refuses
from workers.errors import WorkerError
from workers.errors import WorkerErrorKind as Kind

OF_PROVIDERS = [
    Kind.RATE_LIMITED,
    Kind.OVERLOADED,
    Kind.CONTEXT_TOO_LONG,
    Kind.BAD_REQUEST,
    Kind.AUTH,
    Kind.UNAVAILABLE,
    Kind.TIMEOUT,
    Kind.CONTENT_FILTERED,
]
LATER_OR_ELSEWHERE = {Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.TIMEOUT}
WORDS = f"too much harbour for {SECRET} today"
BY_STATUS = {
    400: (Kind.BAD_REQUEST, False),
    401: (Kind.AUTH, False),
    403: (Kind.AUTH, False),
    404: (Kind.BAD_REQUEST, False),
    408: (Kind.TIMEOUT, True),
    409: (Kind.BAD_REQUEST, False),
    413: (Kind.BAD_REQUEST, False),
    422: (Kind.BAD_REQUEST, False),
    429: (Kind.RATE_LIMITED, True),
    500: (Kind.UNAVAILABLE, True),
    502: (Kind.UNAVAILABLE, True),
    503: (Kind.OVERLOADED, True),
    504: (Kind.TIMEOUT, True),
    529: (Kind.OVERLOADED, True),
}
HTML = b"<html><head><title>Bad gateway</title></head><body>nginx</body></html>"
NO_WORDS = [HTML, b"", b"{", b"\xff\xfe", b"null", b'{"error": 5}', b"[1]", b'{"error": {"message": {}}}']


def _refused(speaker, kind: Kind) -> list[Refuses]:
    """Every error of that kind that the provider has."""
    if not isinstance(speaker, HttpSpeaker):
        return [Refuses(kind, WORDS)]
    of_kind = [refusal for refusal in speaker.refusals(WORDS) if refusal.kind is kind]
    return [Refuses(kind, WORDS, which) for which in range(len(of_kind))]


@over("refusals")
def test_every_kind_of_error_is_there_but_those_that_never_come(speaker):
    assert not [kind for kind in OF_PROVIDERS if kind not in speaker.never and not _refused(speaker, kind)]
    assert Kind.UNAVAILABLE not in speaker.never
    assert Kind.BAD_REQUEST not in speaker.never


@over("refusals")
@streamed_or_whole
@pytest.mark.parametrize("kind", OF_PROVIDERS)
async def test_a_refusal(speaker, stream, kind, tmp_path):
    if kind in speaker.never:
        return
    async with calling(speaker, tmp_path) as served:
        for fault in _refused(speaker, kind):
            served.fault = fault
            end = await failed(served.worker, ask(stream=stream))
            assert end.error.kind is kind, (fault, end.error)
            assert end.error.retryable == (kind in LATER_OR_ELSEWHERE and not _lasting(speaker, fault)), fault
            assert not end.told.deltas
            assert _hides(speaker, end.error)
            assert ("too much harbour" in end.error.message) == (kind is not Kind.AUTH), end.error.message
            if speaker.http:
                assert end.error.status == speaker.refusals("")[_at(speaker, fault)].status
        served.fault = None
        assert (await told(served.worker, ask(stream=stream))).text == served.script.text


def _hides(speaker, error: WorkerError) -> bool:
    """Whether it does not repeat the secret, where there is one."""
    return "credentials" in speaker.lacks or SECRET not in f"{error.message} {error!r}"


def _lasting(speaker, fault: Refuses) -> bool:
    return isinstance(speaker, HttpSpeaker) and speaker.refusals("")[_at(speaker, fault)].lasting


def _at(speaker, fault: Refuses) -> int:
    of_kind = [at for at, refusal in enumerate(speaker.refusals("")) if refusal.kind is fault.kind]
    return of_kind[fault.which]


@over("refusals", "retry_after")
@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.OVERLOADED])
async def test_how_long_to_wait_is_kept(speaker, kind, tmp_path):
    if kind in speaker.never:
        return
    async with calling(speaker, tmp_path) as served:
        served.fault = Refuses(kind, retry_after=17)
        assert (await failed(served.worker, ask())).error.retry_after == 17.0
        served.fault = Refuses(kind)
        assert (await failed(served.worker, ask())).error.retry_after is None


@over("in_band")
@pytest.mark.parametrize("kind", OF_PROVIDERS)
async def test_an_error_within_a_stream(speaker, kind, tmp_path):
    if kind in speaker.never or (isinstance(speaker, HttpSpeaker) and speaker.in_band(kind, WORDS) is None):
        return
    async with calling(speaker, tmp_path) as served:
        for after in (0, 1, len(_deltas(speaker, served)) or 2):
            served.fault = ErrorInside(kind, after, WORDS)
            end = await failed(served.worker, ask())
            assert end.error.kind is kind, (after, end.error)
            assert end.error.retryable == (kind in LATER_OR_ELSEWHERE)
            assert served.script.text.startswith(end.told.text)
            assert not end.told.reasons
            assert _hides(speaker, end.error)
        if isinstance(speaker, HttpSpeaker):
            assert end.told.text, "what came before the error is not lost"


def _deltas(speaker, served) -> list[bytes]:
    """Pieces up to the last that has text."""
    if not isinstance(speaker, HttpSpeaker):
        return []
    pieces = speaker.stream(served.script)
    last = max(at for at, piece in enumerate(pieces) if b"shed." in piece)
    return pieces[:last]


def test_errors_within_a_stream_are_covered():
    for speaker in SPEAKERS:
        if isinstance(speaker, HttpSpeaker) and "in_band" not in speaker.lacks:
            assert speaker.in_band(Kind.OVERLOADED, "") or speaker.in_band(Kind.UNAVAILABLE, ""), speaker.kind


@over(http=True)
@streamed_or_whole
@pytest.mark.parametrize(
    "body", [HTML, b"", b"{", b"\xff\xfe", b"null", b'{"error": 5}', b"[1]", b'{"error": {"message": {}}}']
)
async def test_statuses_tell_the_kind_where_nothing_else_does(speaker, stream, body, tmp_path):
    async with calling(speaker, tmp_path) as served:
        for status, expected in BY_STATUS.items():
            served.fault = Answers(body, status, "text/html")
            error = (await failed(served.worker, ask(stream=stream))).error
            kind = speaker.statuses.get(status, expected[0])
            assert (error.kind, error.retryable) == (kind, expected[1]), (status, error)
            assert error.status == status
            assert str(status) in error.message or status in speaker.statuses
            assert "<" not in error.message


@over(http=True)
@pytest.mark.parametrize("status", [204, 302, 418, 599])
async def test_statuses_that_make_no_sense(speaker, status, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Answers(b"", status, "")
        error = (await failed(served.worker, ask())).error
        assert error.kind in (Kind.UNAVAILABLE, Kind.PROTOCOL, Kind.CUT)
        assert error.message


@over(http=True)
async def test_a_complaint_without_end_is_not_waited_for(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Answers(b'{"error": {"message": "' + b"x" * (4 << 20), 500)
        error = (await failed(served.worker, ask())).error
        assert error.kind is Kind.UNAVAILABLE
        assert len(error.message) < 1000
