"""Post: gives each answer its filter chain, which the Stream stage then runs over the deltas."""

from collections.abc import Sequence

from pipeline.core.messages import InferenceOutput, PostOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Answer
from pipeline.stages.base import Stage
from pipeline.stages.filters import FilterFactory, TextChain
from workers.base import Delta, DeltaBatch


class FilterChain:
    """The post filters of one answer: batches in, what may be shown out.

    A choice whose filter ended it gives nothing more; `ended` is true when that holds for all of them, so that the
    backend call can be stopped.
    """

    __slots__ = ("_chains", "_choices", "_factories")

    def __init__(self, factories: Sequence[FilterFactory], choices: int) -> None:
        self._factories = factories
        self._choices = choices
        self._chains: dict[int, TextChain] = {}

    @property
    def ended(self) -> bool:
        chains = self._chains.values()
        return len(chains) >= self._choices and all(chain.ended for chain in chains)

    def run(self, batches: Sequence[DeltaBatch]) -> Answer:
        """Filters what is ready. `changed` unless every delta came out as it went in."""
        deltas: list[Delta] = []
        changed = False
        for batch in batches:
            for delta in batch.deltas:
                filtered = self._filter(delta)
                changed = changed or filtered is not delta
                if filtered is not None:
                    deltas.append(filtered)
        body = next((batch.body for batch in batches if batch.body), b"")
        return Answer(tuple(deltas), changed, body)

    def _filter(self, delta: Delta) -> Delta | None:
        chain = self._chains.get(delta.index)
        if chain is None:
            chain = self._chains[delta.index] = TextChain(self._factories)
        if chain.ended:
            # A chunk of several choices hangs on its first: without it the others would be lost.
            leads = self._choices > 1 and delta.extra and delta.raw
            return Delta("", delta.index, None, delta.raw, extra=True) if leads else None
        text = chain.feed(delta.text)
        if delta.finish_reason is not None and not chain.ended:
            text += chain.flush()
        finish = chain.finish_reason or delta.finish_reason
        if text == delta.text and finish == delta.finish_reason:
            return delta
        if not text and finish is None and not delta.extra:
            return None
        return Delta(text, delta.index, finish, delta.raw, delta.extra)


class PostStage(Stage[InferenceOutput, PostOutput]):
    """A filtered answer is in the stage until it ends, for that is how long its filters work."""

    place = Place.POST

    def handle(self, message: InferenceOutput) -> PostOutput:
        factories: Sequence[FilterFactory] = message.request.course.filters
        if not factories:
            return PostOutput(message.request, message, None)
        message.request.ticket.filtered = True
        self.active += 1
        return PostOutput(message.request, message, FilterChain(factories, message.request.parameters.n))

    def left(self) -> None:
        """A filtered answer has ended."""
        self.active -= 1
        self.nudge()
