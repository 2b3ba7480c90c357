"""What workflows see of the configuration."""

import msgspec
import pytest

from config.schema import Config
from pipeline.wiring.catalog import ConfigCatalog

CONFIG = {
    "workers": [
        {"name": "quotes", "kind": "extractive"},
        {"name": "small", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "tiny"},
        {"name": "any", "kind": "openai", "base_url": "http://127.0.0.1:1/v1"},
        {"name": "aside", "kind": "echo"},
    ],
    "routes": [
        {"name": "qa", "worker": "quotes", "fallback": ["aside"]},
        {"name": "open", "worker": "any"},
        {"name": "mixed", "workers": [{"worker": "quotes"}, {"worker": "small"}]},
    ],
    "collections": [{"name": "docs"}],
}


@pytest.fixture(name="catalog")
def _catalog():
    return ConfigCatalog(msgspec.convert(CONFIG, Config))


def test_names(catalog):
    assert (list(catalog.routes()), list(catalog.collections())) == (["qa", "open", "mixed"], ["docs"])


@pytest.mark.parametrize(("route", "embeds"), [("qa", False), ("open", True), ("mixed", True), ("none", False)])
def test_which_routes_embed(catalog, route, embeds):
    assert catalog.embeds(route) is embeds


@pytest.mark.parametrize(
    ("provider", "model", "route"),
    [
        ("openai", "tiny", "mixed"),  # its worker names the model, that of `open` would take any
        ("openai", "other", "open"),
        ("openai", None, "open"),
        ("small", None, "mixed"),
        ("small", "other", None),
        ("extractive", None, "qa"),
        ("aside", None, None),  # only a fallback
        ("nobody", None, None),
    ],
)
def test_the_route_of_a_provider_and_model(catalog, provider, model, route):
    assert catalog.route_of(provider, model) == route


def test_it_follows_another_configuration(catalog):
    catalog.config = msgspec.convert(CONFIG | {"routes": [{"name": "new", "worker": "aside"}]}, Config)
    assert list(catalog.routes()) == ["new"]
    assert catalog.route_of("echo", "anything") == "new"


def test_what_workflows_may_reach_outside(catalog, tmp_path):
    assert not catalog.allows("http://a.test")
    assert not catalog.files()
    section = {"hosts": ["a.test", "b.test:8080"], "files_dir": str(tmp_path)}
    wider = ConfigCatalog(msgspec.convert({**CONFIG, "workflows": section}, Config))
    addresses = ("http://a.test", "https://a.test:9", "http://b.test:8080", "http://b.test", "http://u:p@a.test", "x")
    assert [wider.allows(url) for url in addresses] == [True, True, True, False, False, False]
    assert wider.files()
    wider.config = catalog.config  # it takes a restart
    assert wider.files()
