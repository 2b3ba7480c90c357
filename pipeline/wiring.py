"""The composition root: the only place that builds concrete classes out of the configuration."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import regex

from config.access import anonymous_allowed
from config.errors import ConfigError, Problem
from config.schema import (
    AdmissionSection,
    AnyDegrade,
    AnyFilter,
    AnyWorker,
    Config,
    FewerPassages,
    InferenceStage,
    MaxLengthFilter,
    RedactFilter,
    RouteSection,
    ShorterAnswer,
    StopFilter,
)
from config.secrets import resolve
from pipeline.core.access import Caller
from pipeline.core.messages import AssembleOutput
from pipeline.core.outcomes import Priority, Reason
from pipeline.core.ports import Hooks, Retriever
from pipeline.flow import Flow
from pipeline.ingress import Entrance, Ingress
from pipeline.policy.access import Access, known_key
from pipeline.policy.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from pipeline.policy.degrade import Step
from pipeline.policy.lane import Lane, Rules
from pipeline.policy.limits import BURST_S, PERIOD_S, TokenBucket
from pipeline.stages.assemble import PromptPlan
from pipeline.stages.filters import FilterFactory, MaxLength, Redact, Stop
from pipeline.stages.limits import CallLimits
from pipeline.stages.pump import Backend
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate, TemplateFailed, TemplateRefused
from workers import registry
from workers.base import ModelWorker, Passage
from workers.tokens import estimate

Clock = Callable[[], float]

SEED = 1  # the same arrivals and the same configuration make the same decisions


class Pipeline:
    """The running pipeline of one shard: everything between the door and the sinks."""

    def __init__(
        self, flow: Flow, ingress: Ingress, workers: dict[str, ModelWorker], retriever: Retriever | None
    ) -> None:
        self.flow = flow
        self.ingress = ingress
        self.workers = workers
        self._retriever = retriever

    async def start(self) -> None:
        self.flow.start()

    async def drain(self, limit: float) -> None:
        """Sheds new requests, waits up to `limit` seconds for the open ones, and ends the rest as cancelled."""
        self.ingress.draining = True
        idle = asyncio.get_running_loop().create_future()
        self.ingress.when_idle(partial(_resolve, idle))
        try:
            async with asyncio.timeout(limit):
                await idle
        except TimeoutError:
            for ticket in list(self.ingress.tickets):
                self.ingress.cancel(ticket, Reason.SHUTDOWN)

    async def aclose(self) -> None:
        """Ends what is open, stops the stages, closes workers and retriever."""
        for ticket in list(self.ingress.tickets):
            self.ingress.cancel(ticket, Reason.SHUTDOWN)
        await self.flow.stop()
        for worker in self.workers.values():
            await worker.aclose()
        if self._retriever is not None:
            await self._retriever.aclose()


async def build(
    config: Config,
    *,
    hooks: Hooks,
    retriever: Retriever | None = None,
    workers: Mapping[str, ModelWorker] | None = None,
    clock: Clock = time.monotonic,
) -> Pipeline:
    """Builds a pipeline that has not been started. Raises `ConfigError` for what only shows when it is built: a
    template that does not compile, a secret that is not there.

    `retriever` replaces the one that the collections ask for, `workers` replace configured ones of the same name.
    """
    problems: list[Problem] = []
    plans = _plans(config, problems)
    built = _workers(config, workers or {}, problems)
    if problems:
        raise ConfigError(tuple(problems))
    if retriever is None and config.collections:
        retriever = _retriever(config)
    routes = {route.name: route for route in config.routes}
    sections = {section.name: section for section in config.workers}
    now = clock()
    lanes = {worker.name: _lane(worker, config.stages.inference, config.admission, now) for worker in config.workers}
    chance = random.Random(SEED).random  # noqa: S311 - spreads callers who come back, guards nothing
    flow = Flow(
        config.stages,
        clock,
        hooks,
        routes=routes,
        lanes=list(lanes.values()),
        chance=chance,
        retriever=retriever,
        plans=plans,
        estimate=estimate,
        backends={r.name: _backend(sections[r.shares[0].worker], built[r.shares[0].worker]) for r in config.routes},
        filters={r.name: [_filter(f) for f in r.filters] for r in config.routes},
    )
    entrances = {
        route.name: _entrance(
            route, sections[route.shares[0].worker], lanes[route.shares[0].worker], config.admission
        )
        for route in config.routes
    }
    ingress = Ingress(
        flow,
        entrances,
        config.server,
        hooks,
        clock,
        access=_access(config, now),
        estimate=estimate,
        chance=chance,
    )
    return Pipeline(flow, ingress, built, retriever)


def check_templates(config: Config) -> None:
    """What `config.load` cannot check, because it knows no jinja2. Raises `ConfigError`."""
    problems: list[Problem] = []
    _plans(config, problems)
    if problems:
        raise ConfigError(tuple(problems))


def _plans(config: Config, problems: list[Problem]) -> dict[str, PromptPlan]:
    sections = {section.name: section for section in config.workers}
    plans: dict[str, PromptPlan] = {}
    for position, route in enumerate(config.routes):
        worker = sections[route.shares[0].worker]
        try:
            template = _template(route)
        except (TemplateRefused, TemplateFailed) as fault:
            key = "template_file" if route.template_file is not None else "template"
            found = f"line {fault.line}: {fault.message}" if isinstance(fault, TemplateRefused) else str(fault)
            problems.append(Problem(f"routes[{position}].{key}", found, "a jinja2 template within the sandbox"))
            continue
        plans[route.name] = PromptPlan(worker.context_tokens, worker.answer_tokens, route.system, template)
    return plans


def _template(route: RouteSection) -> PromptTemplate | None:
    if route.template_file is not None:
        source = Path(route.template_file).read_text(encoding="utf-8-sig")
    elif route.template is not None:
        source = route.template
    elif route.collection is not None:
        source = DEFAULT_TEMPLATE
    else:
        return None
    template = PromptTemplate(source, max_chars=route.template_max_chars, timeout=route.template_timeout_ms / 1000)
    template.render(system="", question="", passages=[Passage("", "", 0, 0.0)])  # names that are not there show here
    return template


def _workers(config: Config, given: Mapping[str, ModelWorker], problems: list[Problem]) -> dict[str, ModelWorker]:
    workers = dict(given)
    for position, section in enumerate(config.workers):
        if section.name in workers:
            continue
        try:
            workers[section.name] = registry.build(
                section, resolve=partial(resolve, path=f"workers[{position}].api_key")
            )
        except ConfigError as error:
            problems.extend(error.problems)
    return workers


def _retriever(config: Config) -> Retriever:
    from pipeline.knowledge.retriever import build_retriever  # noqa: PLC0415 - only where there are collections

    return build_retriever(config.collections, Path(config.server.data_dir) / "knowledge.sock", resolve)


def _backend(section: AnyWorker, worker: ModelWorker) -> Backend:
    limits = CallLimits(
        section.first_delta_timeout_ms / 1000, section.gap_timeout_ms / 1000, section.total_timeout_ms / 1000
    )
    return Backend(section.name, worker, limits, section.high_water_deltas)


def _lane(
    worker: AnyWorker, inference: InferenceStage, admission: AdmissionSection, now: float
) -> Lane[AssembleOutput]:
    concurrency = inference.concurrency if worker.concurrency is None else worker.concurrency
    limit: ConcurrencyLimit = (
        AdaptiveLimit(inference.max_concurrency) if concurrency == "adaptive" else FixedLimit(concurrency)
    )
    rules = Rules(
        wait_budget=admission.wait_budget_ms != "off",
        usual_budget=None if isinstance(admission.wait_budget_ms, str) else admission.wait_budget_ms / 1000,
        codel_interval=admission.codel_interval_ms / 1000 if admission.codel else None,
        fair=admission.fair,
    )
    return Lane(
        worker.name,
        limit,
        rules,
        requests=_quota(worker.requests_per_minute, now),
        tokens=_quota(worker.tokens_per_minute, now),
    )


def _quota(per_minute: int | None, now: float) -> TokenBucket | None:
    if per_minute is None:
        return None
    return TokenBucket(per_minute / PERIOD_S, max(1.0, per_minute * BURST_S / PERIOD_S), now)


def _entrance(
    route: RouteSection, worker: AnyWorker, lane: Lane[AssembleOutput], admission: AdmissionSection
) -> Entrance:
    budget = admission.wait_budget_ms if route.wait_budget_ms is None else route.wait_budget_ms
    return Entrance(
        route,
        lane,
        None if isinstance(budget, str) else budget / 1000,
        [_step(step) for step in route.degrade],
        worker.answer_tokens,
    )


def _step(section: AnyDegrade) -> Step:
    match section:
        case FewerPassages(passages=passages, pressure=pressure):
            return Step(pressure, passages=passages)
        case ShorterAnswer(max_tokens=max_tokens, pressure=pressure):
            return Step(pressure, max_tokens=max_tokens)


def _access(config: Config, now: float) -> Access:
    keys = [
        known_key(
            key.name,
            key.hash,
            class_name=key.class_,
            routes=key.routes,
            weight=key.weight,
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
            concurrency=key.concurrency,
            revoked=key.revoked,
            now=now,
        )
        for key in config.keys
    ]
    anonymous = Caller("-", Priority[config.server.anonymous_class.upper()])
    return Access(keys, anonymous if anonymous_allowed(config) else None)


def _filter(section: AnyFilter) -> FilterFactory:
    match section:
        case StopFilter(sequences=sequences):
            return partial(Stop, sequences)
        case RedactFilter(pattern=pattern, replacement=replacement, max_match_chars=longest):
            return partial(Redact, regex.compile(pattern), replacement, longest)
        case MaxLengthFilter(chars=chars):
            return partial(MaxLength, chars)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
