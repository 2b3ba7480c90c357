"""Changes to a configuration that is in force."""

from pathlib import Path

import msgspec
import pytest

from config import edit
from config.errors import ConfigError
from config.load import load
from config.schema import Config
from config.show import MASK

CONFIG = msgspec.convert(
    {
        "workers": [
            {"name": "a", "kind": "echo"},
            {"name": "b", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "headers": {"X-A": "1", "X-B": "2"}},
        ],
        "routes": [
            {"name": "one", "worker": "a"},
            {"name": "two", "workers": [{"worker": "a", "weight": 2}, {"worker": "b"}]},
        ],
        "keys": [{"name": "k", "hash": "sha256:" + "0" * 64, "routes": ["one"], "class": "high"}],
    },
    Config,
)


def refused(change) -> dict[str, str]:
    """The problems by key path, with what was found."""
    with pytest.raises(ConfigError) as error:
        change()
    assert all(problem.where == "" for problem in error.value.problems)
    return {problem.path: problem.found for problem in error.value.problems}


def test_a_change_that_changes_nothing_gives_the_same_configuration(tmp_path):
    assert edit.edited(CONFIG, lambda tree: None) == CONFIG
    shipped = load(Path("pipeline.toml"), {}).config
    assert edit.edited(shipped, lambda tree: None) == shipped


def test_what_it_was_given_stays_as_it_was():
    before = msgspec.json.encode(CONFIG)
    edit.weigh(CONFIG, "two", {"b": 9})
    edit.drain_worker(CONFIG, "a", drain=True)
    edit.remove_worker(CONFIG, "b", force=True)
    assert msgspec.json.encode(CONFIG) == before


def test_a_worker_keeps_its_place():
    swapped = edit.put_worker(CONFIG, "a", {"kind": "echo", "tokens": 3})
    assert [worker.name for worker in swapped.workers] == ["a", "b"]
    added = edit.put_worker(swapped, "c", {"kind": "echo"})
    assert [worker.name for worker in added.workers] == ["a", "b", "c"]


def test_masked_headers_keep_their_values_and_only_those():
    table = edit.shown(edit.find_worker(CONFIG, "b"))
    assert table["headers"] == {"X-A": MASK, "X-B": MASK}
    table["headers"] = {"X-A": MASK, "X-B": "new"}
    swapped = edit.find_worker(edit.put_worker(CONFIG, "b", table), "b")
    assert swapped.headers == {"X-A": "1", "X-B": "new"}
    for name, lost in (("c", "X-A"), ("b", "X-C")):
        headers = {lost: MASK, "X-D": "4"}
        found = refused(lambda: edit.put_worker(CONFIG, name, table | {"name": name, "headers": headers}))  # noqa: B023
        assert found == {f"workers[{name}].headers.{lost}": "a value that was hidden"}


def test_null_unsets_a_known_key_and_hides_no_unknown_one():
    assert edit.put_worker(CONFIG, "a", {"kind": "echo", "concurrency": None}) == CONFIG
    assert refused(lambda: edit.put_worker(CONFIG, "a", {"kind": "echo", "base_url": None})) == {
        "workers[a].base_url": "an unknown key"
    }
    assert refused(lambda: edit.put_route(CONFIG, "x", {"worker": "a", "degrade": [None]})) == {
        "routes[x].degrade[0]": "None"
    }


def test_problems_name_tables_by_their_names_at_the_outermost_level_only():
    found = refused(lambda: edit.weigh(CONFIG, "two", {"b": -1}))
    assert list(found) == ["routes[two].workers[1].weight"]
    found = refused(lambda: edit.put_worker(CONFIG, "b", {"kind": "echo", "tokens": "many", "seed": 1.5}))
    assert list(found) == ["workers[b].tokens", "workers[b].seed"]


def test_a_name_that_is_none_is_not_repeated_as_one():
    found = refused(lambda: edit.put_worker(CONFIG, "x\n", {"kind": "echo"}))
    assert list(found) == ["workers[2].name"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_worker_in_use_stays(name):
    with pytest.raises(edit.InUse) as error:
        edit.remove_worker(CONFIG, name, force=False)
    assert list(error.value.users) == (["one", "two"] if name == "a" else ["two"])


def test_force_takes_a_worker_out_of_routes_that_have_another():
    left = edit.remove_worker(CONFIG, "b", force=True)
    assert [share.worker for share in left.routes[1].workers] == ["a"]
    with pytest.raises(edit.InUse, match="only one of these routes: one"):
        edit.remove_worker(CONFIG, "a", force=True)


def test_force_leaves_no_route_without_sessions():
    weightless = edit.weigh(CONFIG, "two", {"a": 0})
    single = msgspec.structs.replace(weightless, routes=weightless.routes[1:], keys=[])
    assert refused(lambda: edit.remove_worker(single, "b", force=True)) == {
        "routes[two].workers[0].weight": "0, as all others"
    }


def test_a_route_that_a_key_is_for_stays():
    assert refused(lambda: edit.remove_route(CONFIG, "one")) == {"keys[k].routes[0]": '"one"'}
    assert [route.name for route in edit.remove_route(CONFIG, "two").routes] == ["one"]


def test_what_is_not_there_is_named_with_what_is():
    for change in (
        lambda: edit.find_worker(CONFIG, "c"),
        lambda: edit.remove_worker(CONFIG, "c", force=True),
        lambda: edit.drain_worker(CONFIG, "c", drain=True),
        lambda: edit.weigh(CONFIG, "one", {"c": 1}),
    ):
        with pytest.raises(edit.NotConfigured, match=r'There is no worker "c": there is a, b$'):
            change()
    for change in (
        lambda: edit.find_route(CONFIG, "three"),
        lambda: edit.remove_route(CONFIG, "three"),
        lambda: edit.weigh(CONFIG, "three", {}),
    ):
        with pytest.raises(edit.NotConfigured, match=r'There is no route "three": there is one, two$'):
            change()


def test_a_long_list_is_cut():
    with pytest.raises(edit.NotConfigured, match=r"there is 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more$"):
        raise edit.NotConfigured("worker", "x", [str(number) for number in range(15)])


@pytest.mark.parametrize("value", ["key.txt", "./key.txt", "../key.txt"])
def test_files_are_named_from_the_root(value, tmp_path):
    table = {"kind": "openai", "base_url": "http://x/v1", "api_key": f"file:{value}"}
    assert list(refused(lambda: edit.put_worker(CONFIG, "c", table))) == ["workers[c].api_key"]
    table["api_key"] = f"file:{tmp_path / value}"
    edit.put_worker(CONFIG, "c", table)


@pytest.mark.parametrize("value", ["key.txt", "./key.txt"])
def test_files_that_headers_name_are_named_from_the_root_too(value, tmp_path):
    table = {"kind": "openai", "base_url": "http://x/v1", "headers": {"X-Api-Key": f"file:{value}"}}
    assert list(refused(lambda: edit.put_worker(CONFIG, "c", table))) == ["workers[c].headers.X-Api-Key"]
    table["headers"] = {"X-Api-Key": f"file:{tmp_path / value}"}
    edit.put_worker(CONFIG, "c", table)


@pytest.mark.parametrize("key", ["tokenizer", "ca_file"])
def test_files_of_workers_are_named_from_the_root_and_are_there(key, tmp_path):
    table = {"kind": "openai", "base_url": "http://x/v1", key: "a.json"}
    found = refused(lambda: edit.put_worker(CONFIG, "c", table))
    assert list(dict.fromkeys(found)) == [f"workers[c].{key}"]
    table[key] = str(tmp_path / "a.json")
    assert refused(lambda: edit.put_worker(CONFIG, "c", table)) == {
        f"workers[c].{key}": f'"{tmp_path}/a.json": no such file or directory'
    }


TABLES = {
    "pool": {"kind": "openai", "replicas": ["http://a/v1", "http://b/v1"], "affinity": False, "retry_budget": 0.05},
    "anthropic": {"kind": "anthropic", "model": "m", "api_key": "env:A", "headers": {"X-Team": "blue"}},
    "cohere": {"kind": "cohere", "api_key": "env:C", "breaker_failures": 3},
    "ollama": {"kind": "ollama", "keep_alive": "-1", "retries": 0},
    "grpc": {"kind": "grpc", "target": "unix:/run/a.sock", "tls": False, "slow_start_ms": 0},
    "python": {"kind": "python", "class": "package.module:Class", "options": {"depth": 3}, "instances": 2},
}


@pytest.mark.parametrize("name", TABLES)
def test_workers_of_all_kinds_come_and_are_shown_as_they_were_said(name):
    added = edit.put_worker(CONFIG, name, TABLES[name])
    shown = edit.shown(edit.find_worker(added, name))
    hidden = {"headers": {"X-Team": MASK}} if "headers" in TABLES[name] else {}
    assert TABLES[name] | hidden | {"name": name} == {key: shown[key] for key in ("name", *TABLES[name])}
    assert edit.put_worker(added, name, shown) == added  # what was shown can be put back
    assert edit.drain_worker(added, name, drain=True).workers[-1].drain


def test_what_is_wrong_with_them_is_named_by_the_workers_name():
    def found(**table):
        return list(refused(lambda: edit.put_worker(CONFIG, "c", table)))

    assert found(kind="openai") == ["workers[c].base_url"]
    assert found(kind="openai", replicas=["http://a", "http://a"]) == ["workers[c].replicas[1]"]
    assert found(kind="grpc", target="a") == ["workers[c].target"]
    assert found(kind="python", folder="own", **{"class": "a:B"}) == ["workers[c].folder"]
    assert found(kind="python", **{"class": "a/b"}) == ["workers[c].class"]
    assert found(kind="openai", base_url="http://a", headers={"X-Api-Key": "k"}) == ["workers[c].headers.X-Api-Key"]
    assert found(kind="echo", retry_base_ms=9000) == ["workers[c].retry_base_ms"]


def falling_back() -> Config:
    """`one` falls back on b, then on c; vectors of `docs` are made by d."""
    tree = edit.table_of(CONFIG)
    tree["workers"] += [{"name": "c", "kind": "echo"}, {"name": "d", "kind": "echo"}]
    tree["routes"][0]["fallback"] = ["b", "c"]
    tree["collections"] = [{"name": "docs", "embedder": "d", "dimension": 8}]
    return msgspec.convert(tree, Config)


def test_a_worker_that_a_route_falls_back_on_is_in_use():
    config = falling_back()
    with pytest.raises(edit.InUse, match=r'The worker "c" is used by these routes: one$'):
        edit.remove_worker(config, "c", force=False)
    left = edit.remove_worker(config, "c", force=True)
    assert left.routes[0].fallback == ["b"]
    left = edit.remove_worker(left, "b", force=True)
    assert (left.routes[0].fallback, left.routes[1].all_workers) == ([], ["a"])


def test_a_fallback_does_not_take_the_place_of_a_routes_only_worker():
    with pytest.raises(edit.InUse, match=r'The worker "a" is the only one of these routes: one$'):
        edit.remove_worker(falling_back(), "a", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_the_embedder_of_a_collection_stays(force):
    with pytest.raises(edit.InUse, match=r'The worker "d" is the embedder of these collections: docs$'):
        edit.remove_worker(falling_back(), "d", force=force)


def test_weights_make_no_cycle_of_a_fallback():
    assert refused(lambda: edit.weigh(falling_back(), "one", {"b": 1})) == {"routes[one].fallback[0]": '"b"'}


def test_a_route_gets_fallbacks_and_a_static_answer():
    table = {"worker": "a", "fallback": ["b"], "static_answer": "Later."}
    route = edit.find_route(edit.put_route(CONFIG, "one", table), "one")
    assert (route.fallback, route.static_answer) == (["b"], "Later.")
    assert refused(lambda: edit.put_route(CONFIG, "one", table | {"fallback": ["b", "x"]})) == {
        "routes[one].fallback[1]": '"x"'
    }
