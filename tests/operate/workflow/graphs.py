"""Plans made by hand, for pictures."""

from pipeline.workflow.definition import (
    BranchStep,
    Case,
    Definition,
    LlmStep,
    LoopStep,
    MapStep,
    TransformStep,
)
from pipeline.workflow.plan import Gate, Graph, Node, Plan


def node(index, step, needs=(), gates=(), body=None):
    return Node(index, step, tuple(needs), (), tuple(gates), {}, body)


def graph(*nodes):
    return Graph(nodes, {}, {}, ())


def plan(*nodes):
    return Plan(Definition(name="x", steps=[]), graph(*nodes), {}, len(nodes))


def llm(name):
    return LlmStep(id=name, route="echo", prompt="x")


def transform(name):
    return TransformStep(id=name, operation="template", template="x")


def chain(count):
    return plan(*(node(at, llm(f"s{at}"), [at - 1] if at else []) for at in range(count)))


def nested():
    """A branch with two ways, a join, and a map within a loop."""
    mapped = graph(node(0, llm("summary")), node(1, transform("tidy"), [0]))
    looped = graph(node(0, llm("draft")), node(1, MapStep(id="each", items=[], steps=[llm("x")]), [0], body=mapped))
    branch = BranchStep(id="route", cases=[Case(when='score > 0.5 and text != "a<b"')])
    return plan(
        node(0, branch),
        node(1, llm("high"), [0], [Gate(0, frozenset({0}))]),
        node(2, llm("low"), [0], [Gate(0, frozenset({"default"}))]),
        node(3, LoopStep(id="improve", steps=[llm("x")]), [1, 2], body=looped),
        node(4, transform("join"), [0, 3]),
    )
