"""Streamed answers in the dialect of OpenAI's older completions. A backend's own frames are passed on as they are."""

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge import sse
from pipeline.edge.citations import citations
from pipeline.edge.completions_answers import TextAnswering, text_reason
from pipeline.edge.completions_sinks import OnlyNative
from pipeline.edge.errors import error_json
from pipeline.edge.openai_answers import encode, token_counts
from workers.base import Delta, Usage

_DONE = b"data: [DONE]\n\n"


class TextEncoder:
    """One answer as `text_completion` events; with `usage`, the tokens are told at the end. Of a chat's answer only the
    text is told. Events of our own are put together around their text: everything else in them is the same."""

    def __init__(self, answering: TextAnswering, required: OnlyNative, *, usage: bool) -> None:
        self._answering = answering
        self._required = required
        self._usage = usage
        self._head = b""  # of every event, up to its choices
        self._citations = b""

    def begin(self, message: PostOutput) -> None:
        self._required.begin(message)
        if self._answering.cites:
            self._citations = b',"citations":' + encode(citations(message.before.before.passages))

    def deltas(self, answer: Answer) -> bytes:
        """Raises `BackendRefused` for an answer that is not what the request needs."""
        self._required.check(answer)
        if not self._head:
            self._identify(answer)
        frames: list[bytes] = []
        as_it_came = not answer.changed
        for delta in answer.deltas:
            if delta.native and as_it_came:
                frames.append(self._renamed(delta.raw) if self._answering.rename else delta.raw)
            elif delta.text or delta.finish_reason is not None:
                frames.append(self._own(delta))
        return b"".join(frames)

    def finish(self, usage: Usage | None) -> bytes:
        if not self._usage or usage is None:
            return _DONE
        return self._head + b'"choices":[],"usage":' + token_counts(usage) + b"}\n\n" + _DONE

    def error(self, error: HeadgateError) -> bytes:
        return sse.data(error_json(error))

    def _identify(self, answer: Answer) -> None:
        first = next((delta for delta in answer.deltas if delta.raw), None)
        native = first is not None and first.native
        raw = b"" if first is None else _payload(first.raw) if native else first.raw
        identity = self._answering.identity(raw, native=native)
        self._head = b'data: {"id":%b,"object":"text_completion","created":%d,"model":%b,' % (
            encode(identity.id),
            identity.created,
            encode(identity.model),
        )

    def _own(self, delta: Delta) -> bytes:
        cited, self._citations = self._citations, b""
        return b'%b"choices":[{"text":%b,"index":%d,"logprobs":null,"finish_reason":%b}]%b}\n\n' % (
            self._head,
            encode(delta.text),
            delta.index,
            encode(text_reason(delta.finish_reason)),
            cited,
        )

    def _renamed(self, frame: bytes) -> bytes:
        return sse.data(self._answering.renamed(_payload(frame))) if frame else b""


def _payload(frame: bytes) -> bytes:
    """The data of a frame as `workers.openai_completions.frame_of` makes it."""
    return frame[6:-2].replace(b"\ndata: ", b"\n")
