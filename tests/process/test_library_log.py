import logging
import subprocess
import sys

from pipeline.process import library_log
from pipeline.process.library_log import Said

LOADING = """0.00.010.671 I srv    load_model: loading model '/m.gguf'
0.00.010.806 E gguf_init_from_reader: failed to read key-value pairs
0.00.011.173 W srv          init: setting n_batch = n_ubatch
"""


def test_warnings_and_errors_are_taken_once(tmp_path):
    path = tmp_path / "said"
    path.write_text(LOADING)
    said = library_log.take(path, serving=False)
    assert said == [
        Said(logging.ERROR, "gguf_init_from_reader: failed to read key-value pairs"),
        Said(logging.WARNING, "srv init: setting n_batch = n_ubatch"),
    ]
    assert library_log.first_error(said) == "gguf_init_from_reader: failed to read key-value pairs"
    assert library_log.take(path, serving=False) == []
    assert library_log.first_error([]) is None


def test_what_may_quote_a_prompt_is_left_out_of_a_serving_one(tmp_path):
    path = tmp_path / "said"
    path.write_text(
        "0.1 E srv   operator(): got exception: my secret prompt\n0.1 E slot x: y\n0.1 W llama_decode: no\n"
    )
    assert library_log.take(path, serving=True) == [Said(logging.WARNING, "llama_decode: no")]


def test_what_is_not_by_the_logger_is_an_error(tmp_path):
    path = tmp_path / "said"
    path.write_bytes(b"ggml.c:12: GGML_ASSERT(x) failed\n\n\xff\xfe" + b"x" * 1000 + b"\n")
    first, second = library_log.take(path, serving=True)
    assert first == Said(logging.ERROR, "ggml.c:12: GGML_ASSERT(x) failed")
    assert len(second.text) == 500


def test_a_flood_is_bounded(tmp_path):
    path = tmp_path / "said"
    path.write_text("".join(f"0.1 W line {number}\n" for number in range(100_000)))
    said = library_log.take(path, serving=False)
    assert len(said) == 50
    assert said[-1].text == "line 99999"
    assert path.stat().st_size == 0


def test_no_file_says_nothing(tmp_path):
    assert library_log.take(tmp_path / "said", serving=True) == []


def test_standard_error_goes_to_the_file_and_on_after_it_was_taken(tmp_path):
    path = tmp_path / "said"
    code = f"""
import os
from pathlib import Path
from pipeline.process import library_log
path = Path({str(path)!r})
library_log.catch(path)
os.write(2, b"0.1 E one\\n")
print(*library_log.take(path, serving=False))
os.write(2, b"0.1 E two\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "one" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == b"0.1 E two\n"
    assert path.stat().st_mode & 0o077 == 0
