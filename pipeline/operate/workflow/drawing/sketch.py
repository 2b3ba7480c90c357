"""What a picture of a workflow shows: its steps, what leads where, and what became of them in a run."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pipeline.workflow.definition import Case
from pipeline.workflow.plan import Gate, Graph, Node, Plan
from pipeline.workflow.states import StepState

_TURN = re.compile(r"\[\d+\]")  # of a map, a reduce or a loop
_BRACES = re.compile(r"\s*\{\{-?((?:(?!\}\}).)*?)-?\}\}\s*", re.DOTALL)
_LABEL_CHARS = 30
_TITLE_CHARS = 40
# What stands for many: the first of these that there is.
_LOUDEST = ("failed", "abandoned", "running", "retrying", "waiting", "completed", "skipped", "pending")


class Link(msgspec.Struct, frozen=True):
    """From one shape of a sketch to another, by their places. `label`: which case of a branch it is."""

    start: int
    end: int
    label: str = ""


class Shape(msgspec.Struct, frozen=True):
    """A step. `note` is a line below its title, `state` empty where no run is shown; `inner` are the steps inside."""

    title: str
    kind: str
    note: str = ""
    state: str = ""
    inner: "Sketch | None" = None


class Sketch(msgspec.Struct, frozen=True):
    shapes: tuple[Shape, ...]
    links: tuple[Link, ...]


def sketch(plan: Plan, states: Mapping[str, StepState] | None = None) -> Sketch:
    """`states`: of the steps of a run by their paths; turns of one step are counted together."""
    found = None if states is None else _by_place(states.items())
    return _of(plan.graph, "", found)


def _by_place(states: Iterable[tuple[str, StepState]]) -> dict[str, Counter[str]]:
    """`each[3]/draft` is counted under `each/draft`."""
    places: dict[str, Counter[str]] = {}
    for path, state in states:
        places.setdefault(_TURN.sub("", path), Counter())[state.value] += 1
    return places


def _of(graph: Graph, above: str, states: Mapping[str, Counter[str]] | None) -> Sketch:
    shapes = tuple(_shape(node, above, states) for node in graph.nodes)
    return Sketch(shapes, tuple(_links(graph)))


def _links(graph: Graph) -> Iterator[Link]:
    """Those that others do not imply: of a, b after a, and c after both, it is shown that c comes after b."""
    before = _before(graph)
    for node in graph.nodes:
        implied = 0
        for need in node.needs:
            implied |= before[need]
        for need in node.needs:
            label = _label(graph, node, need)
            if label or not implied >> need & 1:
                yield Link(need, node.index, label)


def _before(graph: Graph) -> list[int]:
    """Of each step all that come before it, as bits."""
    before = [0] * len(graph.nodes)
    missing = [len(node.needs) for node in graph.nodes]
    feeds: list[list[int]] = [[] for _ in graph.nodes]
    for node in graph.nodes:
        for need in node.needs:
            feeds[need].append(node.index)
    ready = [place for place, count in enumerate(missing) if not count]
    for place in ready:  # grows
        for end in feeds[place]:
            before[end] |= before[place] | 1 << place
            missing[end] -= 1
            if not missing[end]:
                ready.append(end)
    return before


def _shape(node: Node, above: str, states: Mapping[str, Counter[str]] | None) -> Shape:
    step, path = node.step, above + node.step.id
    inside = node.body or (node.other.graph if node.other is not None else None)
    inner = None if inside is None else _of(inside, path + "/", states)
    state, note = "", _about(step)
    if states is not None:
        counted = states.get(path, Counter({"pending": 1}))
        state = next(name for name in _LOUDEST if counted[name])
        note = _told(counted)
    return Shape(shortened(step.id, _TITLE_CHARS), _kind(step), note, state, inner)


def _kind(step: object) -> str:
    kind = getattr(type(step), "__struct_config__").tag or getattr(step, "type", "step")  # noqa: B009 - not typed
    return f"{kind} {detail}" if (detail := getattr(step, "operation", None) or getattr(step, "action", None)) else kind


def _about(step: object) -> str:
    """What matters most beside its type."""
    for name in ("route", "workflow", "collection", "event"):
        if isinstance(said := getattr(step, name, None), str) and "{{" not in said:
            return shortened(said, _LABEL_CHARS)
    if (condition := getattr(step, "condition", None)) is not None:
        return shortened(f"if {_bare(str(condition))}", _LABEL_CHARS)
    return ""


def _told(counted: Counter[str]) -> str:
    if counted.total() == 1:
        return next(iter(counted))
    return ", ".join(f"{counted[name]} {name}" for name in _LOUDEST if counted[name])


def _label(graph: Graph, node: Node, need: int) -> str:
    gates = [gate for gate in node.gates if gate.branch == need]
    cases = graph.nodes[need].step.cases if gates else []
    return " or ".join(_case(cases, gate) for gate in gates)


def _case(cases: list[Case], gate: Gate) -> str:
    names = [
        "default" if case == "default" else _bare(str(cases[int(case)].when)) for case in sorted(gate.cases, key=str)
    ]
    return shortened(" or ".join(names), _LABEL_CHARS)


def _bare(expression: str) -> str:
    """Without the braces that it may have around it."""
    whole = _BRACES.fullmatch(expression)
    return whole[1] if whole else expression


def shortened(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"
