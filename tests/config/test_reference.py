"""Descriptions, the JSON schema and the reference page follow the schema."""

import tomllib
from pathlib import Path

import jsonschema_rs
import pytest
from msgspec import inspect

from config.descriptions import DESCRIPTIONS, description
from config.reference import json_schema, markdown
from config.schema import Config
from config.shape import bare, of, variants
from tests.config.helpers import SMALLEST

ROOT = Path(__file__).parents[2]


def sections(info: inspect.StructType):
    """All tables that a configuration can have."""
    yield info
    for field in info.fields:
        kind = bare(field.type)[0]
        kind = bare(kind.item_type)[0] if isinstance(kind, inspect.ListType) else kind
        for inner in variants(kind).values() if isinstance(kind, inspect.UnionType) else [kind]:
            if isinstance(inner, inspect.StructType):
                yield from sections(inner)


def test_every_key_has_a_description():
    missing = [
        f"{info.cls.__name__}.{field.name}"
        for info in sections(of(Config))
        for field in info.fields
        if not any(field.encode_name in DESCRIPTIONS.get(base, {}) for base in info.cls.__mro__)
    ]
    assert not missing, "to be added to config/descriptions.py"


def test_no_description_is_of_a_key_that_is_gone():
    for section, keys in DESCRIPTIONS.items():
        assert keys.keys() <= set(section.__struct_encode_fields__), section


def test_the_reference_page_is_the_current_one():
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert page == markdown(), "run: headgate config schema --markdown > docs/reference/configuration.md"


def test_the_reference_names_every_key_with_its_default():
    page = markdown()
    for info in sections(of(Config)):
        for field in info.fields:
            if not isinstance(bare(field.type)[0], inspect.StructType):
                assert f"| `{field.encode_name}` |" in page or info.cls is Config
    assert "| `port` | a whole number from 0 to 65,535 | `8080` | TCP port; 0: a free one, printed at start |" in page


def test_the_json_schema_is_one_and_describes_every_key():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    jsonschema_rs.meta.validate(schema)
    for info in sections(of(Config)):
        for field in info.fields:
            shown = schema["$defs"][info.cls.__name__]["properties"][field.encode_name]
            assert shown["description"] == description(info.cls, field.name)


@pytest.mark.parametrize("text", [SMALLEST, (ROOT / "pipeline.toml").read_text()])
def test_the_json_schema_takes_what_is_right(text):
    jsonschema_rs.validator_for(json_schema()).validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"prot = 1\n{SMALLEST}",
        f"{SMALLEST}[server]\nport = 65536",
        f"{SMALLEST}[logging]\nlevel = 'warn'",
        SMALLEST.replace("echo", "ecco"),
        SMALLEST.replace('"w"', '"w w"'),
        SMALLEST.replace('"w"', '"w\\n"'),
        f"{SMALLEST}[[collections]]\nname = 'a'\nurl = 'x'",
    ],
)
def test_the_json_schema_refuses_what_is_wrong(text):
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(json_schema()).validate(tomllib.loads(text))
