"""pipeline.toml loads, and has every key: with its default, in the schema's order, with what it is for."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from config.descriptions import DESCRIPTIONS, description
from config.load import load
from config.schema import Config, EchoWorker, ExtractiveWorker
from config.shape import bare, leaves, of, variants
from config.source import Source
from tests import certificates

FILE = Path(__file__).parents[2] / "pipeline.toml"
TEXT = FILE.read_text()

# Keys and tables that are commented out, made part of the document.
FULL = re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", TEXT, flags=re.MULTILINE)
SOURCE = Source(FILE, FULL)
LINES = FULL.split("\n")

FILES = (
    *("server.pem", "server.key", "admin.pem", "admin.key"),
    *("tokenizer.json", "backend-ca.pem", "own-ca.pem", "model.gguf"),
)

# What the sample chooses itself; the rest stands at its default.
CHOSEN = {"name", "kind", "worker", "collection", "description"}


def tables(info: inspect.Type, value, path=()):
    """Every table of the full document: its path, its struct and its content."""
    kind = bare(info)[0]
    if isinstance(kind, inspect.UnionType) and not leaves(kind):
        kind = variants(kind)[value["kind"]]
    if isinstance(kind, inspect.ListType):
        for index, element in enumerate(value):
            yield from tables(kind.item_type, element, (*path, index))
    elif isinstance(kind, inspect.StructType):
        yield path, kind, value
        for field in kind.fields:
            if field.encode_name in value:
                yield from tables(field.type, value[field.encode_name], (*path, field.encode_name))


TABLES = list(tables(of(Config), SOURCE.tree))
STRUCTS = {info.cls: info for path, info, _ in TABLES if path}


def plain(info: inspect.StructType):
    return [field for field in info.fields if not isinstance(bare(field.type)[0], inspect.StructType)]


def test_it_loads_and_serves_what_it_should():
    config = load(FILE, {}).config
    assert [type(worker) for worker in config.workers] == [EchoWorker, ExtractiveWorker]
    routes = [(route.name, route.worker, route.collection) for route in config.routes]
    assert routes == [("docs-qa", "extractive", "docs"), ("echo", "echo", None)]
    assert [(one.name, one.store, one.embedder) for one in config.collections] == [("docs", "embedded", "auto")]


def kinds(info: inspect.Type):
    """Every struct that the schema has below its root."""
    kind = bare(info)[0]
    if isinstance(kind, inspect.ListType):
        kind = bare(kind.item_type)[0]
    for one in variants(kind).values() if isinstance(kind, inspect.UnionType) else [kind]:
        if isinstance(one, inspect.StructType):
            yield one.cls
            for field in one.fields:
                yield from kinds(field.type)


def test_every_kind_of_table_stands_there():
    assert {cls for field in of(Config).fields for cls in kinds(field.type)} == set(STRUCTS)


def owner(cls: type, key: str) -> type:
    """The class that a key is inherited from: a worker's common keys stand only in the table of the first worker."""
    return next(base for base in cls.__mro__ if key in DESCRIPTIONS.get(base, {}))


def commented(cls: type, key: str) -> bool:
    line = re.compile(re.escape(key) + " = .*  # " + re.escape(description(cls, key)))
    paths = [path for path, info, value in TABLES if issubclass(info.cls, owner(cls, key)) and key in value]
    return any(line.fullmatch(LINES[SOURCE.lines[*path, key] - 1]) for path in paths)


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_every_key_stands_there_with_its_description(cls):
    missing = [
        f"{field.encode_name} = …  # {description(cls, field.name)}"
        for field in plain(STRUCTS[cls])
        if not commented(cls, field.encode_name)
    ]
    assert not missing, "to be added to pipeline.toml"


def test_what_is_set_stands_at_its_default():
    for path, info, value in tables(of(Config), tomllib.loads(TEXT)):
        for field in plain(info):
            if path and field.encode_name in value and field.encode_name not in CHOSEN:
                default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
                assert value[field.encode_name] == default, (path, field.encode_name)


def test_only_keys_without_a_default_are_commented_out():
    """Tables that are commented out as a whole are examples, and the routes' filters among them."""
    written = {path: value for path, _, value in tables(of(Config), tomllib.loads(TEXT))}
    for path, info, value in TABLES:
        for field in plain(info):
            if path in written and field.encode_name in value.keys() - written[path].keys() - {"filters", "degrade"}:
                assert field.default is None or field.encode_name == "keys", (path, field.encode_name)


def test_what_is_commented_out_is_valid_once_it_is_used(tmp_path):
    text = FULL.replace('template_file = "prompt.jinja"', '# template_file = "prompt.jinja"')
    for file in FILES:
        (tmp_path / file).write_bytes(b"GGUF")
    for file in ("backend-ca.pem", "own-ca.pem"):
        certificates.made(tmp_path, "ca").certificate.rename(tmp_path / file)
    text = text.replace('store = "embedded"', 'store = "qdrant"').replace('embedder = "auto"', 'embedder = "local"')
    text = text.replace('name = "echo"\nworker = "echo"', 'name = "echo"\nworker = "echo"\ncollection = "docs"')
    (tmp_path / "full.toml").write_text(text)
    assert len(load(tmp_path / "full.toml", {}).config.workers) == 9


def test_keys_stand_in_the_order_of_the_schema():
    for path, info, value in TABLES:
        keys = [field.encode_name for field in plain(info) if field.encode_name in value]
        lines = [SOURCE.lines[*path, key] for key in keys if key not in {"filters", "degrade"} or value[key] == []]
        assert lines == sorted(lines), path
