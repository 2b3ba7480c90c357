"""Files of recorded arrivals: ours, and those that others publish."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load import trace
from benchmarks.load.trace import Entry, read_trace
from config.errors import ConfigError

OWN = '{"at": 1.25, "words": 120, "max_tokens": 64, "stream": true, "session": "a", "class": "high"}'
FULL = Entry(at=1.25, words=120, max_tokens=64, stream=True, session="a", class_="high")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def problems(file: Path, content: str | bytes):
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as refused:
        read_trace(file)
    return refused.value.problems


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_json_lines_in_order_of_time(file, end):
    file.write_text(f'\n{OWN}\n{{"at": 0}}\n\n{{"at": 1.25}}{end}')
    assert read_trace(file) == [Entry(at=0), FULL, Entry(at=1.25)]


def test_columns(file):
    file.write_bytes(
        b'\xef\xbb\xbfat,words, stream,class,session,max_tokens\r\n1.25,120,true,high,"a",64\r\n2,,false,,"b,c",\r\n'
    )
    assert read_trace(file) == [FULL, Entry(at=2, stream=False, session="b,c")]


def test_the_azure_traces(file):
    """Of 2023 without a time zone and with seven decimals, of 2024 with one."""
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,0\n"
        "2023-11-16 18:15:47,2000000,109\n"
    )
    assert read_trace(file) == [
        Entry(at=0, words=374, max_tokens=44),
        Entry(at=pytest.approx(0.31941), words=1_000_000, max_tokens=109),
        Entry(at=pytest.approx(4.314579), words=396, max_tokens=1),
    ]
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01.009930+00:00,2399,6\n"
    )
    assert [entry.at for entry in read_trace(file)] == pytest.approx([0, 1])


def test_the_mooncake_traces(file):
    file.write_text(
        '{"timestamp": 27000, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 30500, "input_length": 0, "output_length": 794, "hash_ids": []}\n'
    )
    assert read_trace(file) == [Entry(at=0, words=6955, max_tokens=52), Entry(at=3.5, words=1, max_tokens=794)]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (f"{OWN}\n\nnonsense", 3, "JSON is malformed"),
        (f'{OWN}\n{{"at": "1"}}', 2, "expected `float`, got `str` - at `$.at`"),
        (f'{OWN}\n{{"words": 1}}', 2, "object missing required field `at`"),
        (f'{OWN}\n{{"at": 1, "wrods": 1}}', 2, "object contains unknown field `wrods`"),
        (f'{OWN}\n{{"at": 1, "class": "hgih"}}', 2, "invalid enum value"),
        (f'{OWN}\n{{"at": 1, "session": "a\\r\\nb: c"}}', 2, "expected `str` matching regex"),
        (f'{OWN}\n{{"at": -1}}', 2, "expected `float` >= 0.0"),
        (f'{OWN}\n{{"at": 1e999}}', 2, "number out of range"),
        (f"{OWN}\n[1]", 2, "expected `object`, got `array`"),
        ('{"timestamp": 1}', 1, "object missing required field `input_length`"),
        ("at,words\n1,x", 2, "expected `int | null`, got `str`"),
        ("at,words\n1", 2, "1 columns where the first line names 2"),
        ("at\nnan", 2, "expected `float` >= 0.0"),
        ("at\ninf", 2, "expected `float` <= 1000000000.0"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1", 2, "2 columns where"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1", 2, "invalid isoformat string"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,one,1", 2, "invalid literal for int()"),
        ("time,words\n1,2", 1, 'an unknown column, "time"'),
        ("words\n1", 1, '"words"'),
        ("at,at\n1,1", 1, '"at,at"'),
        (b"at\n1\n\xff", 3, "bytes that are not UTF-8"),
        (b"\xff", 1, "bytes that are not UTF-8"),
        (b'{"at": 1}\n{"at": 1, "session": "\xff"}', 2, "bytes that are not UTF-8"),
    ],
)
def test_what_is_wrong_and_on_which_line(file, content, line, found):
    (problem,) = problems(file, content)
    assert problem.where == f"{file}:{line}"
    assert problem.found.startswith(found)


def test_a_column_that_is_nearly_one(file):
    (problem,) = problems(file, "at,max_token\n1,1")
    assert problem.hint == "max_tokens"


def test_many_problems_are_not_all_told(file):
    assert [problem.where for problem in problems(file, "at\n" + "x\n" * 50)] == [f"{file}:{n}" for n in range(2, 12)]


@pytest.mark.parametrize("content", ["", "\n\n", "at\n", "at,words\n\n"])
def test_nothing_in_it(file, content):
    (problem,) = problems(file, content)
    assert problem.found == "no arrival"


def test_no_file(file, tmp_path):
    for path, found in [(file, "no such file"), (tmp_path, "no regular file")]:
        with pytest.raises(ConfigError, match=found):
            read_trace(path)
    os.mkfifo(file)  # opening one would wait for a writer for ever
    with pytest.raises(ConfigError, match="no regular file"):
        read_trace(file)


def test_a_line_and_a_file_have_limits(file, monkeypatch):
    (problem,) = problems(file, "at\n" + "1" * (2 << 20))
    assert (problem.found, problem.where) == ("a longer line", f"{file}:2")
    monkeypatch.setattr(trace, "MOST_LINES", 5)
    file.write_text("at\n1\n1\n1\n1\n")
    assert len(read_trace(file)) == 4
    (problem,) = problems(file, "at\n1\n1\n1\n1\n1\n")
    assert (problem.found, problem.where) == ("more lines", f"{file}:6")


@given(content=st.binary(max_size=200) | st.text('{}[]",:at0123456789-.e\n', max_size=100).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(content)
    entries, problems = [], ()
    try:
        entries = read_trace(file)
    except ConfigError as refused:
        problems = refused.problems
    assert bool(entries) != bool(problems)
    assert all(problem.found and problem.where for problem in problems)
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
