"""From sections of the configuration to the parts that a pipeline is built of."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import regex

from config.errors import ConfigError, Problem
from config.schema import (
    AdmissionSection,
    AnyDegrade,
    AnyFilter,
    AnyWorker,
    Config,
    FewerPassages,
    MaxLengthFilter,
    OpenAIWorker,
    RedactFilter,
    RouteSection,
    ShorterAnswer,
    StopFilter,
    WorkerSection,
)
from config.secrets import resolve
from pipeline.core.messages import AssembleOutput
from pipeline.policy.degrade import Step
from pipeline.policy.lane import Lane, Rules
from pipeline.stages.assemble import PromptPlan
from pipeline.stages.course import Course, Doorway
from pipeline.stages.filters import FilterFactory, MaxLength, Redact, Stop
from pipeline.stages.limits import CallLimits
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate, TemplateFailed, TemplateRefused
from workers import registry
from workers.base import ModelWorker, Passage

_COMMON = frozenset(WorkerSection.__struct_fields__)  # of which the worker itself only looks at its name
_SAME_MODEL = frozenset(
    ["api_key", "headers", "connect_timeout_ms", "max_connections", "idle_connection_ms", "stream_usage"]
)


class MadeWorker(NamedTuple):
    """A worker with what it was made of."""

    section: AnyWorker
    secret: str | None
    worker: ModelWorker


class MadeRoute(NamedTuple):
    """What of a route takes time to make or can fail."""

    section: RouteSection
    template: PromptTemplate | None
    filters: list[FilterFactory]


class Renewed(msgspec.Struct, frozen=True, eq=False):
    """What a configuration asks for, made and not yet in force. `started` are the workers that were made for it; the
    others go on as they are."""

    config: Config
    workers: dict[str, MadeWorker]
    routes: dict[str, MadeRoute]
    started: list[ModelWorker]


def make(config: Config, before: Renewed | None, given: Mapping[str, ModelWorker]) -> Renewed:
    """Takes over from `before` what has not changed. Workers in `given` are used instead of those of the same name.

    Raises `ConfigError`: a template that does not compile, a secret that is not there.
    """
    problems: list[Problem] = []
    routes = _routes(config, {} if before is None else before.routes, problems)
    secrets = _secrets(config, given, problems)
    if problems:
        raise ConfigError(tuple(problems))
    workers: dict[str, MadeWorker] = {}
    started: list[ModelWorker] = []
    for section in config.workers:
        name, secret = section.name, secrets.get(section.name)
        old = None if before is None else before.workers.get(name)
        if name in given:
            worker = given[name]
        elif old is not None and old.secret == secret and not changed(old.section, section):
            worker = old.worker
        else:
            worker = registry.build(section, resolve=partial(_known, secret or ""))
            started.append(worker)
        workers[name] = MadeWorker(section, secret, worker)
    return Renewed(config, workers, routes, started)


def changed(old: AnyWorker, new: AnyWorker) -> set[str]:
    """The keys that make another worker of it: all but those that only say how it is used."""
    if type(old) is not type(new):
        return {"kind"}
    own = set(new.__struct_fields__) - _COMMON
    return {key for key in own if getattr(old, key) != getattr(new, key)}


def another_model(old: AnyWorker, new: AnyWorker) -> bool:
    """Whether what was learnt of the old worker's pace says nothing of the new one's."""
    return not changed(old, new) <= _SAME_MODEL


def check_templates(config: Config) -> None:
    """What `config.load` cannot check, because it knows no jinja2. Raises `ConfigError`."""
    problems: list[Problem] = []
    _routes(config, {}, problems)
    if problems:
        raise ConfigError(tuple(problems))


def rules(admission: AdmissionSection) -> Rules:
    return Rules(
        wait_budget=admission.wait_budget_ms != "off",
        usual_budget=None if isinstance(admission.wait_budget_ms, str) else admission.wait_budget_ms / 1000,
        codel_interval=admission.codel_interval_ms / 1000 if admission.codel else None,
        fair=admission.fair,
    )


def call_limits(section: AnyWorker) -> CallLimits:
    return CallLimits(
        section.first_delta_timeout_ms / 1000, section.gap_timeout_ms / 1000, section.total_timeout_ms / 1000
    )


def doorway(made: MadeRoute, renewed: Renewed, lanes: Mapping[str, Lane[AssembleOutput]]) -> Doorway:
    """The way in to a route, past those of its workers that take no new requests."""
    route = made.section
    courses = {}
    weights = {}
    for share in route.shares:
        worker = renewed.workers[share.worker].section
        if share.weight > 0.0 and not worker.drain:
            courses[worker.name] = _course(made, worker, lanes[worker.name], renewed.config.admission)
            weights[worker.name] = share.weight
    return Doorway.of(route, courses, weights)


def _course(made: MadeRoute, worker: AnyWorker, lane: Lane[AssembleOutput], admission: AdmissionSection) -> Course:
    route = made.section
    budget = admission.wait_budget_ms if route.wait_budget_ms is None else route.wait_budget_ms
    return Course(
        route,
        lane,
        PromptPlan(worker.context_tokens, worker.answer_tokens, route.system, made.template),
        made.filters,
        None if isinstance(budget, str) else budget / 1000,
        [_step(step) for step in route.degrade],
    )


def _routes(config: Config, before: Mapping[str, MadeRoute], problems: list[Problem]) -> dict[str, MadeRoute]:
    made: dict[str, MadeRoute] = {}
    for position, route in enumerate(config.routes):
        old = before.get(route.name)
        try:
            template = _template(route, None if old is None else old.template)
        except (TemplateRefused, TemplateFailed, OSError) as fault:
            key = "template_file" if route.template_file is not None else "template"
            found = f"line {fault.line}: {fault.message}" if isinstance(fault, TemplateRefused) else str(fault)
            problems.append(Problem(f"routes[{position}].{key}", found, "a jinja2 template within the sandbox"))
            continue
        same = old is not None and old.section.filters == route.filters
        filters = old.filters if old is not None and same else [_filter(section) for section in route.filters]
        made[route.name] = MadeRoute(route, template, filters)
    return made


def _template(route: RouteSection, old: PromptTemplate | None) -> PromptTemplate | None:
    if route.template_file is not None:
        source = Path(route.template_file).read_text(encoding="utf-8-sig")
    elif route.template is not None:
        source = route.template
    elif route.collection is not None:
        source = DEFAULT_TEMPLATE
    else:
        return None
    max_chars, timeout = route.template_max_chars, route.template_timeout_ms / 1000
    if old is not None and (old.source, old.max_chars, old.timeout) == (source, max_chars, timeout):
        return old
    template = PromptTemplate(source, max_chars=max_chars, timeout=timeout)
    template.render(system="", question="", passages=[Passage("", "", 0, 0.0)])  # names that are not there show here
    return template


def _secrets(config: Config, given: Mapping[str, ModelWorker], problems: list[Problem]) -> dict[str, str]:
    secrets: dict[str, str] = {}
    for position, section in enumerate(config.workers):
        if section.name in given or not isinstance(section, OpenAIWorker) or section.api_key is None:
            continue
        try:
            secrets[section.name] = resolve(section.api_key, path=f"workers[{position}].api_key")
        except ConfigError as error:
            problems.extend(error.problems)
    return secrets


def _known(secret: str, _reference: str) -> str:
    return secret


def _step(section: AnyDegrade) -> Step:
    match section:
        case FewerPassages(passages=passages, pressure=pressure):
            return Step(pressure, passages=passages)
        case ShorterAnswer(max_tokens=max_tokens, pressure=pressure):
            return Step(pressure, max_tokens=max_tokens)


def _filter(section: AnyFilter) -> FilterFactory:
    match section:
        case StopFilter(sequences=sequences):
            return partial(Stop, sequences)
        case RedactFilter(pattern=pattern, replacement=replacement, max_match_chars=longest):
            return partial(Redact, regex.compile(pattern), replacement, longest)
        case MaxLengthFilter(chars=chars):
            return partial(MaxLength, chars)
