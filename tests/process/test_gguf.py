import gguf as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.process.errors import StartError
from pipeline.process.gguf import embeds
from tests.local_models import tiny_gguf


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (None, False),
        (reference.PoolingType.NONE, False),
        (reference.PoolingType.MEAN, True),
        (reference.PoolingType.CLS, True),
        (reference.PoolingType.LAST, True),
        (reference.PoolingType.RANK, False),
    ],
)
def test_a_model_says_whether_it_is_for_embeddings(pooling, expected, tmp_path):
    assert embeds(tiny_gguf(tmp_path, pooling=pooling)) is expected


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    path = tiny_gguf(tmp_path_factory.mktemp("model"), pooling=reference.PoolingType.MEAN)
    return path.read_bytes()[:2000]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "m.gguf"


@given(st.data())
def test_a_damaged_head_is_left_to_llama_cpp(head, damaged, data):
    cut = bytearray(head[: data.draw(st.integers(4, len(head)))])
    for at in data.draw(st.lists(st.integers(4, len(head) - 1), max_size=4)):
        if at < len(cut):
            cut[at] = data.draw(st.integers(0, 255))
    damaged.write_bytes(cut)
    assert embeds(damaged) in (True, False)


@pytest.mark.parametrize("contents", [b"", b"GGU", b"PK\x03\x04 and so on"])
def test_what_is_no_gguf_file_is_refused(contents, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(contents)
    with pytest.raises(StartError, match="no GGUF file"):
        embeds(path)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(StartError, match="cannot be read: No such file"):
        embeds(tmp_path / "missing")
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        embeds(tmp_path)
