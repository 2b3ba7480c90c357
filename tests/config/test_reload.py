"""What is different between two configurations, what of it can be applied live, and what is then in force."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import fields, replace

from config import schema
from config.errors import ConfigError
from config.load import load, self_contained
from config.paths import leaves
from config.reload import APPLIES_LIVE, TABLES, differences, merged, needs_restart, other_contents
from config.schema import Config
from tests.config.helpers import SMALLEST
from tests.flows import config

ROOT = Path(__file__).parents[2]
HASH = "sha256:" + "0" * 64


def of(**sections: Any) -> Config:
    return config(**sections)


def paths(old: Config, new: Config) -> list[tuple[str, bool]]:
    return [(difference.path, difference.restart) for difference in differences(old, new)]


def _schema_keys() -> Iterator[str]:
    """Every key of the schema, tables without their names: `server.port`, `workers.base_url`."""
    tables: dict[str, list[type[Struct]]] = {
        "workers": list(get_args(schema.AnyWorker)),
        "routes": [schema.RouteSection],
        "collections": [schema.CollectionSection],
        "keys": [schema.KeySection],
    }
    for path, _ in leaves(of()):
        if path[0] not in TABLES:
            yield ".".join(str(part) for part in path)
    for table, kinds in tables.items():
        yield from (f"{table}.{field.encode_name}" for kind in kinds for field in fields(kind))


def test_every_key_of_the_schema_is_either_live_or_not():
    keys = list(_schema_keys())
    assert len(keys) > 100
    for key in keys:
        needs_restart(key, 1, 2)  # raises KeyError for one that is in no table
    parts = {prefix for key in keys for prefix in (key, key.partition(".")[0])}
    assert set(APPLIES_LIVE) <= parts  # and no table names a key that is not there


def test_a_key_that_is_in_no_table_is_not_guessed():
    with pytest.raises(KeyError, match=r"server\.surprise"):
        needs_restart("server.surprise", 1, 2)


def test_the_same_configuration_has_no_differences():
    shipped = load(ROOT / "pipeline.toml", {}).config
    assert differences(shipped, msgspec.convert(msgspec.to_builtins(shipped), Config)) == []


def test_a_key_is_named_with_both_values():
    old = of(server={"max_body_bytes": 2048, "port": 1})
    new = of(server={"max_body_bytes": 4096, "port": 2})
    assert [(d.path, d.before, d.after, d.restart) for d in differences(old, new)] == [
        ("server.port", 1, 2, True),
        ("server.max_body_bytes", 2048, 4096, False),
    ]


def test_tables_are_told_by_their_name_and_their_order_is_no_change():
    one, two = {"name": "one", "kind": "echo"}, {"name": "two", "kind": "echo"}
    routes = [{"name": "r", "worker": "one"}]
    old = of(workers=[one, two], routes=routes)
    assert differences(old, of(workers=[two, one], routes=routes)) == []
    new = of(workers=[two | {"tokens": 3}, one], routes=[{"name": "r", "worker": "two", "deadline_ms": 5}])
    assert paths(old, new) == [
        ("workers[two].tokens", False),
        ("routes[r].worker", False),
        ("routes[r].deadline_ms", False),
    ]


def test_a_table_that_comes_or_goes_is_one_entry():
    key = {"name": "team-a", "hash": HASH, "class": "high"}
    old, new = of(), of(keys=[key])
    (added,) = differences(old, new)
    assert (added.path, added.before, added.after) == ("keys[team-a]", None, key)
    (removed,) = differences(new, old)
    assert (removed.path, removed.before, removed.after) == ("keys[team-a]", key, None)


def test_a_worker_of_another_kind_is_one_entry():
    routes = [{"name": "r", "worker": "w"}]
    old = of(workers=[{"name": "w", "kind": "echo", "tokens": 3}], routes=routes)
    address = "http://127.0.0.1:1/v1"
    new = of(workers=[{"name": "w", "kind": "openai", "base_url": address}], routes=routes)
    (difference,) = differences(old, new)
    assert difference.path == "workers[w]"
    assert difference.before == {"kind": "echo", "name": "w", "tokens": 3}
    assert difference.after == {"kind": "openai", "name": "w", "base_url": address}


def test_lists_inside_a_table_are_one_value():
    old = of(routes=[{"name": "r", "worker": "echo"}])
    new = of(routes=[{"name": "r", "worker": "echo", "filters": [{"kind": "max_length", "chars": 5}]}])
    (difference,) = differences(old, new)
    assert difference.path == "routes[r].filters"
    assert (difference.before, difference.after) == ([], [{"kind": "max_length", "chars": 5}])


def test_what_headers_say_is_never_shown():
    def worker(**fields: Any) -> Config:
        return of(workers=[{"name": "w", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", **fields}])

    old = worker(headers={"X-Team": "blue moon", "X-Old": "blue moon"}, api_key="env:OLD")
    new = worker(headers={"X-Team": "red moon", "X.New": "red moon"}, api_key="env:NEW")
    found = {d.path: (d.before, d.after) for d in differences(old, new)}
    assert found == {
        "workers[w].api_key": ("env:OLD", "env:NEW"),
        'workers[w].headers."X-Team"': ("***", "***"),
        'workers[w].headers."X.New"': (None, "***"),
        'workers[w].headers."X-Old"': ("***", None),
    }
    assert "moon" not in repr(differences(of(), new))


WORKER = {"name": "w", "kind": "openai", "replicas": ["http://127.0.0.1:1/v1"]}
CHANGED = {
    "replicas": ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"],
    "ca_file": "/ca.pem",
    "completions": "chat",
    "tokenizer": "/t.json",
    "affinity": False,
    "replica_concurrency": 3,
    "retries": 0,
    "retry_budget": 0.0,
    "retry_base_ms": 5,
    "retry_max_ms": 50,
    "breaker_failures": 9,
    "breaker_rate": 0.0,
    "breaker_open_ms": 5,
    "breaker_max_open_ms": 50,
    "health_interval_ms": 0,
    "slow_start_ms": 0,
}


@pytest.mark.parametrize("key", CHANGED)
def test_pools_change_live_key_by_key(key):
    old, new = of(workers=[WORKER]), of(workers=[WORKER | {key: CHANGED[key]}])
    (difference,) = differences(old, new)
    assert (difference.path, difference.after, difference.restart) == (f"workers[w].{key}", CHANGED[key], False)


def test_fallbacks_and_static_answers_change_live():
    route = {"name": "r", "worker": "w"}
    workers = [WORKER, {"name": "v", "kind": "echo"}]
    old = of(workers=workers, routes=[route])
    new = of(workers=workers, routes=[route | {"fallback": ["v"], "static_answer": "Later."}])
    assert paths(old, new) == [("routes[r].fallback", False), ("routes[r].static_answer", False)]


def test_options_of_a_class_change_live_and_are_not_shown():
    def worker(**options: Any) -> Config:
        return of(workers=[{"name": "w", "kind": "python", "class": "a:B", "options": options}])

    (difference,) = differences(worker(depth=3), worker(depth=4))
    assert (difference.path, difference.before, difference.after) == ('workers[w].options."depth"', "***", "***")
    assert not difference.restart


def test_a_worker_that_a_collection_kept_until_a_restart_needs_stays():
    """The collection's new embedder is there after a restart only; until then it needs the old one."""
    worker = {"name": "e", "kind": "echo"}
    docs = {"name": "docs", "embedder": "e", "dimension": 8}
    old = of(workers=[{"name": "w", "kind": "echo"}, worker], collections=[docs])
    new = of(workers=[{"name": "w", "kind": "echo"}], collections=[{"name": "docs"}])
    with pytest.raises(ConfigError) as refused:
        merged(old, new)
    (problem,) = refused.value.problems
    assert (problem.path, problem.found) == ("collections[0].embedder", '"e"')
    assert "until a restart" in problem.where


def test_tls_can_be_renewed_but_neither_begun_nor_ended():
    none, one, two = (of(server=s) for s in ({}, _tls("one"), _tls("two")))
    renewed = [("server.tls_certificate", False), ("server.tls_key", False)]
    assert paths(one, two) == renewed
    assert paths(none, one) == paths(one, none) == [(path, True) for path, _ in renewed]


def test_what_is_merged_takes_the_new_and_keeps_what_needs_a_restart():
    old = of(server={"port": 1, "deadline_ms": 1000})
    new = of(server={"port": 2, "deadline_ms": 2000}, logging={"level": "debug", "format": "json"})
    together = merged(old, new)
    assert (together.server.port, together.server.deadline_ms) == (1, 2000)
    assert (together.logging.level, together.logging.format) == ("debug", "auto")
    assert [d.path for d in differences(together, new)] == [d.path for d in differences(old, new) if d.restart]
    assert all(d.restart for d in differences(together, new))


def test_a_route_to_a_collection_that_is_not_there_yet_is_refused_by_name():
    new = of(collections=[{"name": "docs"}], routes=[{"name": "r", "worker": "echo", "collection": "docs"}])
    with pytest.raises(ConfigError) as refused:
        merged(of(), new)
    (problem,) = refused.value.problems
    assert (problem.path, problem.found) == ("routes[0].collection", '"docs"')
    assert "until a restart" in problem.where


def test_nobody_is_let_in_or_locked_out_because_the_address_could_not_move():
    """Anonymous requests go without saying at a loopback address; the one in force is another."""
    old = of(server={"host": "0.0.0.0"}, keys=[{"name": "k", "hash": HASH}])
    with pytest.raises(ConfigError) as refused:
        merged(old, of())
    assert [problem.path for problem in refused.value.problems] == ["server.anonymous"]


def test_an_admin_listener_for_others_does_not_lose_its_token():
    admin = {"host": "10.0.0.1", "token": "env:TOKEN", **_tls(__file__)}
    with pytest.raises(ConfigError) as refused:
        merged(of(admin=admin), of())
    assert {problem.path for problem in refused.value.problems} == {"admin.token"}


def test_a_file_with_other_contents_is_a_difference_of_its_own(tmp_path):
    file = tmp_path / "pipeline.toml"
    file.write_text(SMALLEST + 'template_file = "prompt.j2"\n')
    named, contained = [], []
    for text in ("Be brief.", "Be very brief."):
        (tmp_path / "prompt.j2").write_text(text)
        named.append(load(file, {}).config)
        contained.append(self_contained(named[-1]))
    assert differences(*named) == []
    (difference,) = other_contents(*named, *contained)
    assert difference.path == "routes[r].template_file"
    assert difference.before == str(tmp_path / "prompt.j2")
    assert not difference.restart
    assert "brief" not in repr(difference)
    assert other_contents(named[0], named[0], contained[0], contained[0]) == []


def test_a_file_by_another_name_is_told_once():
    old, new = of(server=_tls("one")), of(server=_tls("two"))
    was, will_be = (replace(c, server=replace(c.server, tls_certificate=c.server.tls_key)) for c in (old, new))
    assert other_contents(old, new, was, will_be) == []


def _tls(name: str) -> dict[str, str]:
    return {"tls_certificate": name, "tls_key": name}
