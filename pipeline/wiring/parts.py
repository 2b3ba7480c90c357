"""From sections of the configuration to the parts that a pipeline is built of."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
    EchoWorker,
    ExtractiveWorker,
    FewerPassages,
    MaxLengthFilter,
    OpenAIWorker,
    PythonWorker,
    RedactFilter,
    RouteSection,
    ShorterAnswer,
    StopFilter,
    WorkerSection,
)
from config.secrets import resolve, worker_references
from pipeline.core.messages import AssembleOutput
from pipeline.policy.breaker import BreakerRules
from pipeline.policy.degrade import Step
from pipeline.policy.lane import Lane, Rules
from pipeline.policy.replica import PoolRules
from pipeline.stages.assemble import PromptPlan
from pipeline.stages.backend import Retrying
from pipeline.stages.course import Course, Doorway
from pipeline.stages.filters import FilterFactory, MaxLength, Redact, Stop
from pipeline.stages.limits import CallLimits
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate, TemplateFailed, TemplateRefused
from workers import registry
from workers.base import ModelWorker, Passage
from workers.counting import Counter, counter_of
from workers.errors import WorkerUnavailable

_CHECK_TIME = 10.0  # seconds for somebody's class to be imported and made
_COMMON = frozenset(WorkerSection.__struct_fields__)  # of which the worker itself only looks at its name
_ONLY_NAMED = (EchoWorker, ExtractiveWorker, OpenAIWorker)  # kinds of which that is true;
_TOLD = {"context_tokens", "answer_tokens"}  # the others tell their backends these
_SAME_MODEL = frozenset(
    {
        "api_key",
        "headers",
        "ca_file",
        "replicas",
        "connect_timeout_ms",
        "max_connections",
        "idle_connection_ms",
        "stream_usage",
        "completions",
        "version",
        "keep_alive",
    }
)


class MadeWorker(NamedTuple):
    """A worker with what it was made of: the secrets that its references stand for, its replicas in order, and what
    counts its prompts."""

    section: AnyWorker
    secrets: dict[str, str]
    replicas: list[ModelWorker]
    counter: Counter

    def __repr__(self) -> str:
        return f"MadeWorker({self.section.name!r})"


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
    workers: dict[str, MadeWorker] = {}
    started: list[ModelWorker] = []
    for position, section in enumerate(config.workers):
        name = section.name
        secrets = {} if name in given else _secrets(section, position, problems)
        old = None if before is None else before.workers.get(name)
        if name in given:
            replicas = [given[name]]
        elif old is not None and old.secrets == secrets and not changed(old.section, section):
            replicas = old.replicas
        elif problems:
            continue
        else:
            replicas = _replicas(section, position, secrets, config, problems)
            started += replicas
        counter = _counter(section, position, replicas, old, problems)
        if counter is not None:
            workers[name] = MadeWorker(section, secrets, replicas, counter)
    if problems:
        raise ConfigError(tuple(problems))
    return Renewed(config, workers, routes, started)


def _counter(
    section: AnyWorker,
    position: int,
    replicas: Sequence[ModelWorker],
    old: MadeWorker | None,
    problems: list[Problem],
) -> Counter | None:
    """That of before, or one that knows what that had learnt; None where there is none to be had."""
    if old is not None and old.replicas is replicas and old.section.tokenizer == section.tokenizer:
        return old.counter
    known = old.counter if old is not None and not another_model(old.section, section) else None
    try:
        return counter_of(section, replicas, known)
    except WorkerUnavailable as why:
        problems.append(Problem(f"workers[{position}].{why.key}", why.found, why.expected))
        return None


def changed(old: AnyWorker, new: AnyWorker) -> set[str]:
    """The keys that make another worker of it: all but those that only say how it is used."""
    if type(old) is not type(new):
        return {"kind"}
    own = set(new.__struct_fields__) - _COMMON
    if not isinstance(new, _ONLY_NAMED):
        own |= _TOLD
    return {key for key in own if getattr(old, key) != getattr(new, key)}


def another_model(old: AnyWorker, new: AnyWorker) -> bool:
    """Whether what was learnt of the old worker's pace says nothing of the new one's."""
    return not changed(old, new) <= _SAME_MODEL


def check_workers(config: Config) -> None:
    """What only shows when workers are made: a class that is not there, a package that is missing. Connects to nothing,
    and looks at no secret. Raises `ConfigError`."""
    problems: list[Problem] = []
    for position, section in enumerate(config.workers):
        if isinstance(section, PythonWorker):
            problems += _within(_CHECK_TIME, partial(_faults, section, position, config), f"workers[{position}].class")
        else:
            problems += _faults(section, position, config)
    if problems:
        raise ConfigError(tuple(problems))


def _faults(section: AnyWorker, position: int, config: Config) -> list[Problem]:
    problems: list[Problem] = []
    made = _replicas(section, position, defaultdict(str), config, problems, number=1)
    _counter(section, position, made, None, problems)
    return problems


def _within(seconds: float, work: Callable[[], list[Problem]], path: str) -> list[Problem]:
    """What `work` finds, in a thread: somebody's code runs there, which may never end. Ctrl-C is then for us."""
    found: list[list[Problem]] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    what = f"code that has not been imported and made within {seconds:g} s"
    return [Problem(path, what, "a class that is made quickly, and loads what is large with its first request")]


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


def pool_rules(section: AnyWorker, shards: int) -> PoolRules:
    """Of one of so many shards, among which a replica's places are divided."""
    concurrency = section.replica_concurrency
    return PoolRules(
        section.affinity,
        None if concurrency is None else -(-concurrency // shards),
        section.slow_start_ms / 1000,
        BreakerRules(
            section.breaker_failures,
            section.breaker_rate,
            open_s=section.breaker_open_ms / 1000,
            max_open_s=section.breaker_max_open_ms / 1000,
        ),
    )


def retrying(section: AnyWorker) -> Retrying:
    return Retrying(section.retries, section.retry_base_ms / 1000, section.retry_max_ms / 1000)


def call_limits(section: AnyWorker) -> CallLimits:
    return CallLimits(
        section.first_delta_timeout_ms / 1000, section.gap_timeout_ms / 1000, section.total_timeout_ms / 1000
    )


def doorway(made: MadeRoute, renewed: Renewed, lanes: Mapping[str, Lane[AssembleOutput]]) -> Doorway:
    """The way in to a route, past those of its workers that take no new requests."""
    route, admission = made.section, renewed.config.admission
    fallbacks: list[Course] = []
    for name in reversed(route.fallback):
        worker = renewed.workers[name].section
        if not worker.drain:
            fallbacks.insert(0, _course(made, renewed.workers[name], lanes[name], admission, tuple(fallbacks)))
    courses = {}
    weights = {}
    for share in route.shares:
        worker = renewed.workers[share.worker].section
        if share.weight > 0.0 and not worker.drain:
            courses[worker.name] = _course(
                made, renewed.workers[share.worker], lanes[worker.name], admission, fallbacks
            )
            weights[worker.name] = share.weight
    if not courses and fallbacks:  # all others are being drained
        name = fallbacks[0].lane.name
        courses, weights = {name: fallbacks[0]}, {name: 1.0}
    return Doorway.of(route, courses, weights)


def _course(
    made: MadeRoute,
    by: MadeWorker,
    lane: Lane[AssembleOutput],
    admission: AdmissionSection,
    fallbacks: Sequence[Course],
) -> Course:
    route, worker = made.section, by.section
    budget = admission.wait_budget_ms if route.wait_budget_ms is None else route.wait_budget_ms
    return Course(
        route,
        lane,
        PromptPlan(worker.context_tokens, worker.answer_tokens, route.system, made.template, by.counter),
        made.filters,
        None if isinstance(budget, str) else budget / 1000,
        [_step(step) for step in route.degrade],
        fallbacks,
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


def _secrets(section: AnyWorker, position: int, problems: list[Problem]) -> dict[str, str]:
    """By reference."""
    secrets: dict[str, str] = {}
    for path, reference in worker_references(section, position):
        try:
            secrets[reference] = resolve(reference, path=path)
        except ConfigError as error:
            problems.extend(error.problems)
    return secrets


def _replicas(
    section: AnyWorker,
    position: int,
    secrets: Mapping[str, str],
    config: Config,
    problems: list[Problem],
    *,
    number: int | None = None,
) -> list[ModelWorker]:
    """All of them, or only the first `number`."""
    data_dir = Path(config.server.data_dir)
    try:
        return [
            registry.build(section, resolve=secrets.__getitem__, replica=replica, data_dir=data_dir)
            for replica in range(len(section.replica_names[:number]))
        ]
    except WorkerUnavailable as why:
        problems.append(Problem(f"workers[{position}].{why.key}", why.found, why.expected))
        return []


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
