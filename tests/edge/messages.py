"""Pipeline messages as a sink gets them, without the channel that only stages use."""

from pipeline.core.messages import AssembleOutput, Cut, InferenceOutput, PostOutput, PromptRequest, RagOutput
from pipeline.core.ticket import Ticket
from workers.base import ChatMessage, Parameters, Passage

PASSAGE = Passage("Sheds say so.", "docs/shedding.md", 3, 0.75, "Overload > Shedding")


def post_output(*passages: Passage, cut: Cut | None = None, degraded: bool = False) -> PostOutput:
    ticket = Ticket("r1", 10.0, lambda _: None)
    messages = (ChatMessage("user", "why?"),)
    request = PromptRequest(ticket, "r1", "s1", "docs", messages, "why?", Parameters(), True, 12.5)
    rag = RagOutput(request, passages, degraded)
    assembled = AssembleOutput(request, rag, messages, passages, cut or Cut(), False, 3)
    return PostOutput(request, InferenceOutput(request, assembled, None), None)
