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
    assert list(error.value.routes) == (["one", "two"] if name == "a" else ["two"])


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
