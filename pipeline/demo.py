"""`headgate demo`: ten prompts of several sessions through the five stages, in this process, with nothing to set up.

Everything is real but the size: the stages, the embedder and the store, the workers. Only the documents are made up
for it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config.schema import Config
from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.outcomes import STAGES, Outcome, Place
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.ingress import Prompt
from pipeline.wiring import Pipeline, build
from workers.base import ChatMessage, Parameters
from workers.lexical import Lexical

DOCUMENTS = {
    "lighthouse.md": [
        (
            "Lighthouse > The lamp",
            "The lamp of the lighthouse burns from dusk to dawn. Its light is seen from 31 miles away.",
        ),
        (
            "Lighthouse > The keeper",
            "The keeper winds the clockwork every four hours. Two assistants share the night watch.",
        ),
    ],
    "harbour.md": [
        (
            "Harbour > Mooring",
            "Ships moor at the north quay. A berth must be booked a day ahead with the harbour master.",
        ),
        (
            "Harbour > Tides",
            "At low tide the channel is four metres deep. Ships with a deeper draught wait for the flood.",
        ),
    ],
    "ferry.md": [
        (
            "Ferry > Timetable",
            "The ferry leaves every forty minutes from six in the morning. The crossing takes a quarter of an hour.",
        ),
        ("Ferry > Fares", "A single crossing costs three crowns. Children under six travel free."),
    ],
}
PROMPTS = (
    ("ada", "harbour-qa", "How deep is the channel at low tide?"),
    ("ben", "harbour-qa", "How often does the ferry leave?"),
    ("ada", "harbour-qa", "Where do ships moor?"),
    ("cleo", "harbour-qa", "From how far away is the lamp seen?"),
    ("ben", "harbour-qa", "What does a single crossing cost?"),
    ("cleo", "harbour-qa", "Who winds the clockwork?"),
    ("ada", "echo", "Say this back to me, word by word."),
    ("dan", "harbour-qa", "What is the capital of the moon?"),
    ("ben", "echo", "And this one, too."),
    ("dan", "harbour-qa", "Do children travel free on the ferry?"),
)
CONFIG = {
    "workers": [
        {"name": "quotes", "kind": "extractive", "max_sentences": 1},
        {"name": "echo", "kind": "echo", "first_token_ms": 20, "tokens_per_s": 100.0},
    ],
    "collections": [{"name": "harbour", "store": "memory", "embedder": "lexical"}],
    "routes": [
        {"name": "harbour-qa", "worker": "quotes", "collection": "harbour", "passages": 3},
        {"name": "echo", "worker": "echo"},
    ],
    "stages": {"inference": {"concurrency": 4}},
}
COLOURS = {"ada": "cyan", "ben": "green", "cleo": "magenta", "dan": "yellow"}


class Asked(NamedTuple):
    ticket: Ticket
    sink: MemorySink


class Demo:
    """Shows each stage as a prompt passes it, then each answer, then what it all came to."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    async def run(self) -> int:
        """Returns the number of prompts that were not completed."""
        retriever = MemoryRetriever(Lexical())
        for source, pieces in DOCUMENTS.items():
            await retriever.add("harbour", source, pieces)
        pipeline = await build(msgspec.convert(CONFIG, Config), hooks=Hooks(), retriever=retriever)
        pipeline.flow.trace(self._passed)
        await pipeline.start()
        try:
            asked = await self._ask_all(pipeline)
        finally:
            await pipeline.aclose()
        self._summary([a.ticket for a in asked])
        return sum(1 for a in asked if a.ticket.ending is None or a.ticket.ending.outcome is not Outcome.COMPLETED)

    async def _ask_all(self, pipeline: Pipeline) -> list[Asked]:
        self._console.print(f"[bold]{len(PROMPTS)} prompts of {len({p[0] for p in PROMPTS})} sessions[/bold]\n")
        asked = []
        for number, (session, route, question) in enumerate(PROMPTS, 1):
            asked.append(self._ask(pipeline, number, session, route, question))
            await asyncio.sleep(0.015)  # people do not all ask in the same instant
        for one in asked:
            await one.sink.ended()
            if one.ticket.ending is not None and one.ticket.ending.error is not None:
                self._line(one.ticket, "failed", f"[red]{escape(one.ticket.ending.error.message)}[/red]")
        return asked

    def _ask(self, pipeline: Pipeline, number: int, session: str, route: str, question: str) -> Asked:
        ticket = pipeline.ingress.open(f"p{number}")
        ticket.session_id = session
        self._line(ticket, "asks", escape(question))
        messages = (ChatMessage("user", question),)
        sink = MemorySink()
        prompt = Prompt(route, messages, question, Parameters(), stream=True, session_id=session)
        pipeline.ingress.submit(ticket, prompt, sink)
        return Asked(ticket, sink)

    def _answered(self, ticket: Ticket, sink: MemorySink) -> None:
        self._line(ticket, "answer", f"[bold]{escape(sink.text)}[/bold]")
        passages = sink.message.before.before.passages if sink.message is not None else ()
        for number, passage in enumerate(passages, 1):
            if f"[{number}]" in sink.text:
                self._line(ticket, "", f"[dim]\\[{number}] {passage.source}, {passage.title}[/dim]")

    def _passed(self, ticket: Ticket, place: Place) -> None:
        details = {
            Place.RAG: f"{ticket.passages} passages",
            Place.ASSEMBLE: f"about {ticket.prompt_tokens} tokens",
            Place.INFERENCE: f"first delta of {ticket.worker}",
            Place.STREAM: f"{ticket.chunks} deltas",
        }
        took = (ticket.sojourn[place] + ticket.service[place]) * 1000
        self._line(ticket, place.label, f"[dim]{took:6.2f} ms  {details.get(place, '')}[/dim]")
        if place is Place.STREAM and isinstance(ticket.sink, MemorySink):
            self._answered(ticket, ticket.sink)

    def _line(self, ticket: Ticket, what: str, text: str) -> None:
        at = (time.monotonic() - self._began) * 1000
        session = ticket.session_id or "-"
        colour = COLOURS.get(session, "white")
        self._console.print(
            f"[dim]{at:7.1f} ms[/dim]  [{colour}]{ticket.request_id:>3} {session:<5}[/{colour}] {what:<10} {text}",
            highlight=False,
            soft_wrap=True,
        )

    def _summary(self, tickets: Sequence[Ticket]) -> None:
        outcomes = Counter(ticket.ending.outcome.value for ticket in tickets if ticket.ending is not None)
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        table = Table(title=f"{len(tickets)} prompts: {told}", title_justify="left")
        table.add_column("stage")
        for column in ("waited, mean ms", "worked, mean ms", "worked, max ms"):
            table.add_column(column, justify="right")
        for place in STAGES:
            waited = [ticket.sojourn[place] * 1000 for ticket in tickets]
            worked = [ticket.service[place] * 1000 for ticket in tickets]
            table.add_row(place.label, f"{mean(waited):.2f}", f"{mean(worked):.2f}", f"{max(worked):.2f}")
        self._console.print()
        self._console.print(table)


def run() -> int:
    """Runs the demonstration; the exit status: 0 when every prompt was completed."""
    return min(asyncio.run(Demo(Console()).run()), 1)
