"""What is read out of HTML."""

import pytest

from pipeline.knowledge.blocks import Block, Heading
from pipeline.knowledge.html_blocks import read


def test_headings_paragraphs_and_inline_markup():
    content = "<h1>One &amp; <em>only</em></h1><p>Hello <b>bo</b>ld\n  world</p>loose<div>box <span>in</span></div>"
    assert list(read(content)) == [
        Heading(1, "One & only"),
        Block("Hello bold world"),
        Block("loose"),
        Block("box in"),
    ]


@pytest.mark.parametrize("tag", ["script", "style", "nav", "noscript", "template", "svg", "button", "form"])
def test_what_is_not_text_is_dropped(tag: str):
    assert list(read(f"<p>a</p><{tag}>gone <b>gone</b></{tag}><!-- gone --><p>b</p>")) == [Block("a"), Block("b")]


def test_the_title_heads_a_page_without_h1():
    page = "<html><head><title> My\n page </title></head><body><h2>Part</h2>x</body></html>"
    assert list(read(page)) == [Heading(1, "My page"), Heading(2, "Part"), Block("x")]
    assert list(read(page.replace("h2", "h1"))) == [Heading(1, "Part"), Block("x")]


def test_lists_and_tables_are_blocks_of_lines():
    assert list(read("<ul><li>one<li>two <i>b</i><ul><li>deep</li></ul></li></ul>")) == [
        Block("- one\n- two b\n- deep")
    ]
    table = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td><p>2</p></td></tr></table>"
    assert list(read(table)) == [Block("| A | B\n| 1 | 2", whole=True)]
    assert list(read("<dl><dt>term</dt><dd>meaning</dd></dl>")) == [Block("term\nmeaning")]


def test_preformatted_text_keeps_its_lines():
    assert list(read("<p>a</p><pre><code>if x:\n    y()\n</code></pre><p>b</p>")) == [
        Block("a"),
        Block("if x:\n    y()", whole=True),
        Block("b"),
    ]


def test_a_heading_inside_a_list_is_its_text():
    assert list(read("<ul><li><h3>Head</h3>body</li></ul>")) == [Block("- Head\nbody")]


def test_line_breaks_and_entities():
    assert list(read("<p>a<br>b&nbsp;c &lt;d&gt;</p>")) == [Block("a\nb c <d>")]


@pytest.mark.parametrize(
    "content",
    ["", "plain", "<", "<p", "</p></div>", "<b><i>x</b></i>", "<?xml version='1.0'?><html><body>x</body></html>"],
)
def test_broken_pages_are_read_as_well_as_they_can_be(content: str):
    assert all(isinstance(item, Block) for item in read(content))


def test_deep_nesting_does_not_break_it():
    assert list(read("<div>" * 20_000 + "deep" + "</div>" * 20_000)) == [Block("deep")]
    (block,) = read("<ul><li>" * 5_000 + "deep")
    assert isinstance(block, Block)
    assert block.text.endswith("- deep")
