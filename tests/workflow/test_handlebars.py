import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.handlebars import is_handlebars
from pipeline.workflow.templates import Compiled, Failed, Limits, Refused, compile_value
from tests.workflow.names import NAMES, Variables


def render(text, names=NAMES):
    return compile_value(text).render(names)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{#each inputs.tags}}[{{this}}]{{/each}}", "[a][b]"),
        ("{{#each rows}}{{this.name}}:{{age}} {{/each}}", "Ann:3 Bob:2 "),
        ("{{#each rows}}{{@index}}{{#unless @last}},{{/unless}}{{/each}}", "0,1"),
        ("{{#each rows}}{{#if @first}}first{{else}}next{{/if}} {{/each}}", "first next "),
        ("{{#each rows}}{{name}}{{#each tags}}-{{this}}{{else}} has none{{/each}};{{/each}}", "Ann-x-y;Bob has none;"),
        ("{{#each rows}}{{#each tags}}{{../name}}{{this}}{{@../index}}{{@index}} {{/each}}{{/each}}", "Annx00 Anny01 "),
        ("{{#each rows}}{{#each tags}}{{name}} {{../../topic}} {{/each}}{{/each}}", "Ann flat cats Ann flat cats "),
        ("{{#each rows}}{{../topic}} {{topic}} {{inputs.topic}};{{/each}}", "flat cats flat cats cats;" * 2),
        ("{{#each inputs.deep}}{{@key}}={{this}}{{/each}}", 'list=[{"x":1},{"x":2}]'),
        ("{{#each rows as |row at|}}{{at}}{{row.name}}{{/each}}", "0Ann1Bob"),
        ("{{#each steps.skipped.value}}x{{else}}none{{/each}}", "none"),
        ("{{#each (rows | sort(attribute='age'))}}{{name}}{{/each}}", "BobAnn"),
        ("{{#each rows}}{{ name | upper }}{{ this.age + 1 }}{{/each}}", "ANN4BOB3"),
        ("{{#each rows}}{% if this.age > 2 %}{{ name }}{% endif %}{{/each}}", "Ann"),
        ("{{#each rows}}{{#if missing}}x{{else}}-{{/if}}{{/each}}", "--"),
        ("{{#each rows}}{% for name in ['own'] %}{{ name }}{% endfor %}{{/each}}", "ownown"),
        ("{{#if inputs.n}}yes{{else}}no{{/if}}", "yes"),
        ("{{#if inputs.none}}yes{{else if inputs.n}}other{{else}}no{{/if}}", "other"),
        ("{{#if inputs.n > 5}}yes{{else}}no{{/if}}", "no"),
        ("{{#unless inputs.none}}nothing{{/unless}}", "nothing"),
        ("{{#if inputs.n}}{{#if inputs.none}}a{{/if}}b{{/if}}", "b"),
        ("{{! a comment, don't }}{{#if topic}}{{{topic}}}{{/if}}", "flat cats"),
        ("a {{~#if topic~}} b {{~/if~}} c", "abc"),
        ("{{#if topic}}{{ '{{#each' }} {{ \"@index ../x this\" }}{{/if}}", "{{#each @index ../x this"),
        ("{{#if topic}}{% raw %}{{#each}}{% endraw %}{{/if}}", "{{#each}}"),
        ("Rows:\n{{#each rows}}\n- {{name}}\n  {{#if @last}}\n  last\n  {{/if}}\n{{/each}}\nEnd",
         "Rows:\n- Ann\n- Bob\n  last\nEnd"),
    ],
)  # fmt: skip
def test_handlebars_forms(text, value):
    assert render(text) == value


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a\n{{#each rows}}\n{{this}}", "{{#each}} is not closed", 2),
        ("{{#if a}}\n{{#each b}}\n{{/if}}{{/each}}", "{{/if}} closes {{#each}} of line 2", 3),
        ("x\n\n{{/if}}", "{{/if}} closes nothing", 3),
        ("{{#if a}}{{else}}\n{{else}}{{/if}}", "a second {{else}}", 2),
        ("{{#if a}}{{else}}\n{{else if b}}{{/if}}", "a second {{else}}", 2),
        ("{{#each a}}{{/each}}\n{{else}}", "{{else}} stands outside of a block", 2),
        ("{{#each a}}{{else if b}}{{/each}}", "{{else …}} can only be", 1),
        ("{{#each}}{{/each}}", "{{#each}} of what?", 1),
        ("{{#if a}}\n{{#with b}}{{/with}}{{/if}}", "{{#with}} is not offered", 2),
        ("{{#if a}}\n\n{{this.x}}{{/if}}", "leads out of every {{#each}}", 3),
        ("{{#if a}}{{@index}}{{/if}}", "leads out of every {{#each}}", 1),
        ("{{#each a}}{{../../x}}{{/each}}", "leads out of every {{#each}}", 1),
        ("{{#each a}}{{@nope}}{{/each}}", "@nope is not offered", 1),
        ("{{#each a}}\n{{ b c }}{{/each}}", "got 'c'", 2),
        ("{{#each a}}\n\n{{/each}}\n{{ b | nope }}", "No filter named 'nope'", 4),
        ("{{#if a}}\n{{ 'x }}{{/if}}", "a {{ that is not closed", 2),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(text, message, line):
    with pytest.raises(Refused) as caught:
        compile_value(text)
    assert message in caught.value.message
    assert caught.value.line == line


def test_names_in_each_may_be_the_item_s_and_are_not_needed_outside():
    compiled = compile_value("{{#each steps.rag.value}}{{text}} {{../topic}} {{inputs.x}}{{this.y}}{{/each}}{{z}}")
    assert set(compiled.references) == {("steps", "rag", "value"), ("topic",), ("inputs", "x"), ("z",)}
    assert set(compiled.optional) == {("text",)}


@pytest.mark.parametrize("text", ["{{#each nope}}{{/each}}", "{{#each rows}}{{nope}}{{/each}}", "{{#if nope}}{{/if}}"])
def test_what_is_not_there_is_named(text):
    with pytest.raises(Failed) as caught:
        render(text)
    assert caught.value.reference == "nope"


def test_each_takes_no_text():
    with pytest.raises(Failed, match="a list or an object"):
        render("{{#each topic}}{{/each}}")


@pytest.mark.parametrize("text", ["{{ x }}", "{# {{x}} #}", "{% for x in y %}{{ x }}{% endfor %}", "{{ '#each' }}"])
def test_plain_templates_stay_untouched(text):
    assert not is_handlebars(text)


def test_loops_are_capped_too():
    names = Variables(big=list(range(5000)))
    with pytest.raises(Failed):
        compile_value("{{#each big}}{{#each big}}x{{/each}}{{/each}}").render(names, limits=Limits(10_000, 0.5))


WORDS = ["{{#each a}}", "{{#if b}}", "{{#unless this}}", "{{else}}", "{{else if b}}", "{{/each}}", "{{/if}}"]
WORDS += [
    "{{/unless}}",
    "{{this}}",
    "{{@index}}",
    "{{../b}}",
    "{{b}}",
    "\n",
    " ",
    "{{! x }}",
    "{% raw %}",
    "'",
    "}}",
    "{",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_order_of_tags_is_translated_or_refused(words):
    try:
        compiled = compile_value("".join(words))
    except Refused as refused:
        compiled = refused
    if isinstance(compiled, Refused):
        assert 1 <= compiled.line <= 1 + words.count("\n")
    elif isinstance(compiled, Compiled):
        try:
            compiled.render(Variables(a=[1, {"b": [2]}], b=3), limits=Limits(10_000, 0.5))
        except Failed:
            return


BLOCKS = st.recursive(
    st.sampled_from(["x", "{{this}}", "{{b}}", "{{../b}}", "{{@index}}", "\n"]),
    lambda inner: st.tuples(st.sampled_from(["each a", "if b", "unless b"]), inner, st.none() | inner).map(
        lambda block: (
            f"{{{{#{block[0]}}}}}{block[1]}{'{{else}}' + block[2] if block[2] else ''}{{{{/{block[0].split()[0]}}}}}"
        )
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(BLOCKS)
def test_well_nested_blocks_in_each_are_always_rendered(block):
    """Inside of three lists nothing leads out, so everything means something."""
    text = "{{#each a}}{{#each a}}" + block + "{{/each}}{{/each}}"
    assert isinstance(compile_value(text).render(Variables(a=[1, {"b": 2}], b=3)), str)
