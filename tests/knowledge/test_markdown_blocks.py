"""What is read out of Markdown."""

from pipeline.knowledge.blocks import Block, Heading
from pipeline.knowledge.markdown_blocks import read


def test_headings_of_both_kinds_are_plain_text():
    content = "# *A* `b` <i>c</i> &amp; ![pic](u) \\# d\n\nTwo\nlines\n===\n\n###### six #\n"
    assert list(read(content)) == [
        Heading(1, "A b c & pic # d"),
        Heading(1, "Two lines"),
        Heading(6, "six"),
    ]


def test_blocks_keep_their_markup():
    blocks = ["A *para* with\n[a link](u).", "- one\n  - two\n\n  still one", "> quoted\nlazy", "1. a\n2. b"]
    assert list(read("\n\n".join(blocks))) == [Block(b) for b in blocks]


def test_code_and_tables_ask_to_stay_whole():
    fence, table = "```py\nx = 1\n\n# no heading\n```", "| a |\n|---|\n| 1 |"
    assert list(read(f"{fence}\n\n{table}\n\n    indented\n")) == [
        Block(fence, whole=True),
        Block(table, whole=True),
        Block("    indented", whole=True),
    ]


def test_front_matter_rules_comments_and_link_definitions_are_not_text():
    content = "---\ntitle: x\n---\n\n<!-- note -->\n\n***\n\n[ref]: http://example.org\n\ntext [ref]\n"
    assert list(read(content)) == [Block("text [ref]")]


def test_a_rule_at_the_start_is_not_front_matter():
    assert list(read("---\n\ntext\n\nmore")) == [Block("text"), Block("more")]


def test_html_within_becomes_text():
    assert list(read("<div>\n<h2>Head</h2>\n<p>a <b>b</b></p>\n</div>\n")) == [Heading(2, "Head"), Block("a b")]


def test_line_ends_of_all_systems():
    assert list(read("# A\r\none\r\ntwo\r\n\r\nthree\rfour")) == [
        Heading(1, "A"),
        Block("one\ntwo"),
        Block("three\nfour"),
    ]


def test_deep_nesting_does_not_break_it():
    assert list(read("> " * 3000 + "x")) == [Block("> " * 3000 + "x")]
