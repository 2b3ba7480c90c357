"""What is certain to fail is told before anything is spent, and where it stands in the text."""

from collections.abc import Sequence

import pytest

from pipeline.workflow.checking import check
from pipeline.workflow.errors import Fault
from pipeline.workflow.source import read


class Outside:
    """A catalog of one route and one host."""

    def __init__(self, *, files: bool = True) -> None:
        self._files = files

    def routes(self) -> Sequence[str]:
        return ["echo"]

    def collections(self) -> Sequence[str]:
        return []

    def embeds(self, route: str) -> bool:
        return False

    def route_of(self, provider: str, model: str | None) -> str | None:
        return None

    def allows(self, url: str) -> bool:
        return url == "http://allowed.test:8080"

    def files(self) -> bool:
        return self._files


def faults(*steps: str, catalog: Outside | None = None) -> list[Fault]:
    inputs = "inputs: {s: {type: string}, n: {type: number}, xs: {type: array}, any: {}}\n"
    text = f"name: x\n{inputs}steps:\n" + "".join(f"  - {{id: s{at}, {step}}}\n" for at, step in enumerate(steps))
    return check(read(text), catalog=catalog or Outside())


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ('type: wait, seconds: "{{ inputs.s }}"', "expected a number of seconds"),
        ("type: transform, operation: split, input: [1]", "expected a text, not [1]"),
        ('type: transform, operation: split, input: "{{ inputs.xs }}"', "inputs.xs is array"),
        ('type: transform, operation: join, input: "{{ inputs.s }}"', "expected a list"),
        ("type: transform, operation: pick, fields: [a], input: a", "expected an object or a list"),
        ("type: transform, operation: template, template: \"{{ ''.__class__.__mro__ }}\"", "'__class__' of a constant"),
        ("type: llm, route: echo, prompt: \"{{ inputs.s }} {{ ''.__class__ }}\"", "__class__"),
        ('type: llm, route: echo, prompt: "{{ 1 / 0 }}"', "this always fails"),
        ('type: llm, route: echo, prompt: "{{ inputs.s.__class__ }}"', "inputs.s is a text, which has no fields"),
        ("type: action, action: http_request, url: 'http://other.test/x'", "other.test is not among"),
        ("type: action, action: webhook, url: 'http://allowed.test/{{ inputs.s }}'", "allowed.test is not among"),
        ("type: action, action: file_write, content: x, path: ../x", "expected a path within"),
        ("type: action, action: file_write, content: x, path: /tmp/x", "expected a path within"),
    ],
)
def test_what_is_certain_to_fail(step: str, said: str) -> None:
    (fault,) = faults(step)
    assert said in fault.message
    assert fault.line == 4


@pytest.mark.parametrize(
    "step",
    [
        'type: wait, seconds: "{{ inputs.n }}"',
        'type: wait, seconds: "3"',
        'type: transform, operation: split, input: "{{ inputs.any }}"',
        "type: transform, operation: merge, input: [[1], [2]]",
        'type: llm, route: echo, prompt: "{{ inputs.s.upper() }} {{ inputs.any.__typename }} {{ inputs.s[0] }}"',
        "type: llm, route: echo, prompt: \"{{ ', '.join(inputs.xs) }}\"",
        "type: action, action: http_request, url: 'http://allowed.test:8080/{{ inputs.s }}'",
        "type: action, action: http_request, url: 'http://{{ inputs.s }}/'",
        "type: action, action: file_write, content: x, path: a/b..c.txt",
    ],
)
def test_what_may_succeed(step: str) -> None:
    assert faults(step) == []


def test_no_files_are_written_where_none_may_be() -> None:
    (fault,) = faults("type: action, action: file_write, content: x, path: a", catalog=Outside(files=False))
    assert "workflows.files_dir is not set" in fault.message


def test_inputs_beside_the_type_of_a_schema() -> None:
    text = (
        "name: x\ninputs: {type: object, xs: {type: array}, x-note: {a: 1}}\nsteps: [{id: a, type: wait, seconds: 1}]\n"
    )
    (fault,) = check(read(text))
    assert (fault.where, fault.line, fault.hint) == ("inputs.xs", 2, "write xs below `properties`")


MINUS = """name: x
steps:
  - {id: my-id2, type: llm, route: echo, prompt: hi}
  - {id: b, type: llm, route: echo, prompt: "{{ steps.my-id2.text }}"}
  - {id: c, type: llm, route: echo, prompt: "{{ my-id2 }}"}
  - {id: d, type: llm, route: echo, prompt: "{{ my - id2 }}"}
"""


def test_a_minus_in_an_id_is_explained_once() -> None:
    found = [(fault.where, fault.hint) for fault in check(read(MINUS))]
    assert found[:2] == [
        ("steps.b.prompt", 'write steps["my-id2"]'),
        ("steps.c.prompt", 'write steps["my-id2"].value'),
    ]
    assert len(found) == 4  # two names that there are not
    assert not check(read(MINUS.replace("steps.my-id2.text", 'steps[\\"my-id2\\"].text').partition("  - {id: c")[0]))


def test_names_outside_of_an_each_are_shown_as_they_are_written() -> None:
    text = "name: x\ninputs: {xs: {}}\nsteps:\n  - id: a\n    type: transform\n    operation: template\n"
    (fault,) = check(read(text + "    template: '{{#each inputs.xs}}{{../y}}{{/each}}'\n"))
    assert fault.message == "../y: not known outside of the {{#each}}, which is where ../ leads"


BLOCKS = """name: x
steps:
  - id: a
    type: transform
    operation: template
    template:
      first: plain
      second: |
        one
        two {{ gone_1 }}
      third:
        - |-
          one
          two

          four {{ gone_2 }}
        - >
          folded
          text

          and {{ gone_3.x }}
  - id: b
    type: llm
    route: echo
    messages:
      - role: user
        content: |
          one
          two {{ 1 | nofilter }}
      - {role: user, content: "one {{ gone_4 }}"}
"""


def test_a_fault_in_a_block_has_the_line_of_the_template() -> None:
    lines = BLOCKS.splitlines()
    found = [(fault.line, fault.message) for fault in check(read(BLOCKS))]
    assert len(found) == 5
    for line, message in found:
        assert message.partition(":")[0].removeprefix("No filter named ").strip("'") in lines[line - 1]
