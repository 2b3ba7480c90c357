"""Pictures of workflows: what is in them, that nothing stands on anything else, and that a browser shows them."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.operate.workflow.drawing import mermaid, sketch, svg
from pipeline.operate.workflow.drawing.layout import layout
from pipeline.workflow.definition import BranchStep, Case
from pipeline.workflow.plan import Gate
from pipeline.workflow.states import StepState
from tests.operate.workflow.graphs import chain, graph, llm, nested, node, plan

SVG = "{http://www.w3.org/2000/svg}"
STATES = {
    "route": StepState.COMPLETED,
    "high": StepState.COMPLETED,
    "low": StepState.SKIPPED,
    "improve": StepState.RUNNING,
    "improve[0]/draft": StepState.COMPLETED,
    "improve[0]/each[0]/summary": StepState.COMPLETED,
    "improve[0]/each[1]/summary": StepState.FAILED,
    "improve[1]/draft": StepState.RUNNING,
}


def overlapping(drawing):
    """Boxes that touch, in this drawing and in those within."""
    for one, other in combinations(drawing.boxes, 2):
        apart = one.x + one.width <= other.x or other.x + other.width <= one.x
        if not apart and not (one.y + one.height <= other.y or other.y + other.height <= one.y):
            yield one.shape.title, other.shape.title
    for box in drawing.boxes:
        if box.inner is not None:
            yield from overlapping(box.inner)


def outside(drawing):
    for box in drawing.boxes:
        if box.x < 0 or box.y < 0 or box.x + box.width > drawing.width or box.y + box.height > drawing.height:
            yield box.shape.title


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    nodes = []
    for at in range(count):
        needs = draw(st.sets(st.integers(0, at - 1), max_size=3)) if at else set()
        body = graph(node(0, llm("a")), node(1, llm("b"), [0])) if draw(st.integers(0, 4)) == 0 else None
        nodes.append(node(at, llm(f"step_{at}" * draw(st.integers(1, 3))), sorted(needs), body=body))
    return plan(*nodes)


@given(graphs())
def test_nothing_stands_on_anything_else_and_links_lead_down(made):
    drawing = layout(sketch(made))
    assert list(overlapping(drawing)) == []
    assert list(outside(drawing)) == []
    for wire in drawing.wires:
        start, end = drawing.boxes[wire.link.start], drawing.boxes[wire.link.end]
        assert wire.points[0] == pytest.approx((start.x + start.width / 2, start.y + start.height))
        assert wire.points[-1] == pytest.approx((end.x + end.width / 2, end.y))
        assert start.y + start.height < end.y
        assert all(upper[1] <= lower[1] for upper, lower in zip(wire.points, wire.points[1:], strict=False))


def test_a_chain_is_a_straight_column():
    drawing = layout(sketch(chain(5)))
    assert len({round(box.x + box.width / 2, 6) for box in drawing.boxes}) == 1
    assert [box.shape.title for box in sorted(drawing.boxes, key=lambda box: box.y)] == ["s0", "s1", "s2", "s3", "s4"]


def test_steps_inside_are_within_their_box():
    drawing = layout(sketch(nested()))
    box = drawing.boxes[3]
    assert box.shape.title == "improve"
    assert [inner.shape.title for inner in box.inner.boxes] == ["draft", "each"]
    assert box.inner.width <= box.width
    assert box.inner.height == box.height


def test_a_large_workflow_is_drawn_too():
    """Each step hangs on the first too: the links would pass a million layers in between."""
    branch = BranchStep(id="b", cases=[Case(when="x")])
    gate = [Gate(0, frozenset({0}))]
    nodes = [node(0, branch), *(node(at, llm(f"s{at}"), sorted({0, at - 1}), gate) for at in range(1, 1500))]
    text = svg(sketch(plan(*nodes)), "large")
    assert text.count("<rect") - text.count('class="paper"') == 1500
    assert text.count('class="wire"') == 2 * 1499 - 1
    assert len(text) < 4_000_000


def test_states_of_turns_are_counted_together():
    shapes = sketch(nested(), STATES).shapes
    loop = shapes[3]
    draft, each = loop.inner.shapes
    assert (shapes[2].state, loop.state, draft.state, each.state) == ("skipped", "running", "running", "pending")
    assert draft.note == "1 running, 1 completed"
    assert (each.inner.shapes[0].state, each.inner.shapes[0].note) == ("failed", "1 failed, 1 completed")
    assert shapes[4].state == "pending"


def test_the_svg_is_well_formed_and_shows_states_and_cases():
    root = ET.fromstring(svg(sketch(nested(), STATES), 'a "title" & more'))
    assert root.find(f"{SVG}title").text == 'a "title" & more'
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert 'score > 0.5 and text != "a<b"' in texts
    assert "default" in texts
    assert any(text.startswith("improve") and "loop" in text for text in texts)
    classes = [rect.get("class") or "" for rect in root.iter(f"{SVG}rect")]
    assert "box llm skipped" in classes
    assert "around running" in classes
    assert root.find(f".//{SVG}script") is None


def test_mermaid_says_the_same():
    text = mermaid(sketch(nested(), STATES))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "flowchart TD"
    assert 'n0{"<b>route</b><br/>branch<br/>completed"}:::completed' in lines
    assert 'n0 -->|"score #gt; 0.5 and text != #quot;a#lt;b#quot;"| n1' in lines
    assert 'n0 -->|"default"| n2' in lines
    assert "n3 --> n4" in lines
    assert "n0 --> n4" not in lines  # that n4 comes after n3, and n3 after n0, says it
    assert lines.count("end") == 2
    assert 'subgraph n3_1["<b>each</b><br/>map<br/>pending"]' in lines
    assert "n3_1_0 --> n3_1_1" in lines
    defined = set(re.findall(r"classDef (\w+)", text))
    assert set(re.findall(r":::(\w+)", text)) | set(re.findall(r"class \w+ (\w+)", text)) <= defined


def test_what_would_break_mermaid_is_escaped():
    odd = plan(node(0, llm('a"] --> evil["')))
    (line,) = [line for line in mermaid(sketch(odd)).splitlines() if "n0" in line]
    assert re.fullmatch(r'  n0\["<b>a#quot;#93; --#gt; evil#91;#quot;</b><br/>llm<br/>echo"\]', line)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_shows_it_and_nothing_is_wider_than_its_box(tmp_path):
    """Widths of texts are estimated; a browser knows them."""
    file = tmp_path / "page.html"
    script = """
      const wide = [...document.querySelectorAll("g > text")].filter(text => !text.classList.contains("label"))
        .filter(text => text.getBBox().width > text.closest("g:has(> .box, > .around)")
          .querySelector(".box, .around").getBBox().width);
      document.title = "done";
      document.body.textContent = `texts ${document.querySelectorAll("text").length} wide ${wide.length}`;
    """
    around = node(1, llm("mmmmmmmmmmmmmmmm"), [0], body=graph(node(0, llm("a"))))
    long = plan(node(0, llm("WIDE_letters_are_wider_than_most")), around)
    drawn = svg(sketch(nested(), STATES), "t") + svg(sketch(long), "t")
    file.write_text(f"<!doctype html><body>{drawn}<script>{script}</script>")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=50, check=True
    )
    assert re.search(r"texts 3\d wide 0", done.stdout), done.stdout


def test_conditions_have_no_braces():
    step = BranchStep(id="route", cases=[Case(when="{{ score > 3 }}"), Case(when="{{ a }} and {{ b }}")])
    gates = {1: Gate(0, frozenset({0})), 2: Gate(0, frozenset({1}))}
    nodes = [node(0, step), *(node(at, llm(f"s{at}"), needs=(0,), gates=(gate,)) for at, gate in gates.items())]
    assert [link.label for link in sketch(plan(*nodes)).links] == ["score > 3", "{{ a }} and {{ b }}"]


def test_no_line_goes_through_a_label():
    """Curves have ended above, and what goes on straight is behind the paper."""
    step = BranchStep(id="route", cases=[Case(when=f"score == {at}") for at in range(4)])
    nodes = [
        node(0, step),
        *(node(at + 1, llm(f"s{at}"), needs=(0,), gates=(Gate(0, frozenset({at})),)) for at in range(4)),
    ]
    picture = ET.fromstring(svg(sketch(plan(*nodes)), "x"))
    papers = [one for one in picture.iter(f"{SVG}rect") if one.get("class") == "paper"]
    assert len(papers) == 4
    top = min(float(paper.get("y")) for paper in papers)
    for path in picture.iter(f"{SVG}path"):
        if path.get("class") == "wire":
            curve, straight = path.get("d").rsplit("L", 1)
            end, begin = straight.split(), curve.split()[-2:]
            assert float(begin[1]) <= top
            assert float(begin[0].rpartition("C")[2]) == float(end[0])
