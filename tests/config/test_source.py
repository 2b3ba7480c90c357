from pathlib import Path

import pytest

from config.errors import ConfigError
from config.source import Source, find, read

FILE = """\
# comment
top.dotted = 1
[a]
b = [
  1,
  {c = 2},
]
text = '''
[not.a.table]
'''

[[list]]
x = 1
[list.inner]
y = 2
[[list.deep]]
[[list.deep]]
z = 3
[[list]]
[[list.deep]]
z = 4
[other."quoted key"]
"""


def refusal(path: Path, named_by: str = ""):
    with pytest.raises(ConfigError) as refused:
        read(path, named_by)
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top", "dotted"), 2),
        (("a",), 3),
        (("a", "b"), 4),
        (("a", "b", 1, "c"), 4),
        (("a", "text"), 8),
        (("list", 0), 12),
        (("list", 0, "x"), 13),
        (("list", 0, "inner"), 14),
        (("list", 0, "inner", "y"), 15),
        (("list", 0, "deep", 0), 16),
        (("list", 0, "deep", 1, "z"), 18),
        (("list", 1), 19),
        (("list", 1, "deep", 0, "z"), 21),
        (("other",), 22),
        (("other", "quoted key"), 22),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines(path, line, newline):
    assert Source(Path("x"), FILE.replace("\n", newline)).lines[path] == line


def test_what_only_looks_like_a_key_has_no_line():
    assert ("not",) not in Source(Path("x"), FILE).lines


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read(file, "").tree == {"a": 1}


@pytest.mark.parametrize(
    ("text", "found", "place"),
    [
        ("a = 1\nb =", "invalid value, at the end of the file", ""),
        ("a = 1\nb = = 2\n", "invalid value", ":2:5"),
        ("a = 1\na = 2\n", "cannot overwrite a value", ":2:6"),
        ("a = 2020-02-30\n", "invalid date or datetime", ":1:5"),
        ("[a]\n[a]\n", "cannot declare ('a',) twice", ":2:3"),
        (f"a = {'9' * 5000}", "exceeds the limit", ""),
        (f"a = {'[' * 100_000}", "values nested too deeply", ""),
    ],
)
def test_what_is_no_toml_is_shown_with_its_place(tmp_path, text, found, place):
    file = tmp_path / "a.toml"
    file.write_text(text)
    problem = refusal(file)
    assert problem.found.startswith(found)
    assert (problem.path, problem.expected, problem.where) == (str(file), "TOML", f"{file}{place}")


def test_a_file_that_is_not_there(tmp_path):
    problem = refusal(tmp_path / "a.toml", "environment HEADGATE_CONFIG")
    assert problem.found == "no such file or directory"
    assert "--config" in problem.expected
    assert problem.where == "environment HEADGATE_CONFIG"


def test_a_folder(tmp_path):
    assert refusal(tmp_path).found == "is a directory"


def test_a_name_that_no_file_can_have():
    assert refusal(Path("a\0b")).expected == "a file that can be read"


def test_bytes_that_are_not_utf8_are_shown_with_their_line(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    assert refusal(file).found == "bytes that are not UTF-8 on line 2"


def test_a_file_without_an_end_is_not_read_to_it():
    assert refusal(Path("/dev/zero")).found == "is a device"


def test_which_file_is_read():
    assert find(Path("a"), {"HEADGATE_CONFIG": "b"}) == (Path("a"), "")
    assert find(None, {"HEADGATE_CONFIG": "b"}) == (Path("b"), "environment HEADGATE_CONFIG")
    assert find(None, {"HEADGATE_CONFIG": ""}) == (Path("pipeline.toml"), "the working directory")
    assert find(None, {}) == (Path("pipeline.toml"), "the working directory")


def test_a_file_of_another_purpose_says_what_was_wanted(tmp_path):
    with pytest.raises(ConfigError) as refused:
        read(tmp_path / "none.toml", "", "a file of another purpose")
    (problem,) = refused.value.problems
    assert problem.expected == "a file of another purpose"
