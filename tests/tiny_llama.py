"""A real llama.cpp server on a model of a megabyte with random weights: python -m tests.tiny_llama FOLDER.

Writes the model into FOLDER unless it is there, serves it on a free port, prints its address, and stops when its
standard input ends. Answers are nonsense, made of the words w0 to w999, but everything around them is real.
"""

import os
import sys
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

WORDS = 1000
WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 2048
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_model(path: Path, *, pooling: gguf.PoolingType | None = None) -> None:
    """With `pooling` it is one for embeddings."""
    pieces = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    first_word = len(pieces)
    pieces += [(f"▁w{number}", gguf.TokenType.NORMAL) for number in range(WORDS)]
    pieces += [("▁", gguf.TokenType.NORMAL), *((chr(code), gguf.TokenType.NORMAL) for code in range(33, 127))]

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(pieces))
    writer.add_file_type(0)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in pieces])
    writer.add_token_scores([-float(max(0, at - first_word)) for at in range(len(pieces))])
    writer.add_token_types([kind for _, kind in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    _add_tensors(writer, len(pieces), range(first_word, first_word + WORDS))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: gguf.GGUFWriter, vocabulary: int, words: range) -> None:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int):
        return (random.standard_normal((rows, columns)) * 0.3).astype(np.float32)

    output = np.zeros((vocabulary, WIDTH), np.float32)  # only words can be said: no answer ends by itself
    output[words.start : words.stop] = matrix(len(words), WIDTH)
    writer.add_tensor("token_embd.weight", matrix(vocabulary, WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", matrix(WIDTH, FEED_FORWARD))


def serve(folder: Path) -> None:
    model = folder / "tiny.gguf"
    if not model.exists():
        unfinished = folder / f"tiny.{os.getpid()}"
        write_model(unfinished)
        unfinished.replace(model)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 4 * CONTEXT
    params.n_parallel = 4
    params.cpuparams.n_threads = 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_slots = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
