from random import Random

import pytest

from benchmarks.soak.settings import ALWAYS, BROKEN, KEYS, SOMETIMES, Place, Settings
from config.errors import ConfigError
from config.load import load
from pipeline.policy.access import key_hash


@pytest.fixture
def settings(tmp_path):
    return Settings(Place(18080, 19100, str(tmp_path), 2), Random(3))


def loaded(tmp_path, text):
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    return load(path).config


def test_every_change_is_valid_and_changes_the_routes(settings, tmp_path):
    texts = {settings.text()}
    for _ in range(30):
        before = set(settings.routes)
        assert settings.change()
        assert set(settings.routes) ^ before == {SOMETIMES}
        config = loaded(tmp_path, settings.text())
        assert {route.name for route in config.routes} == set(settings.routes) >= set(ALWAYS)
        texts.add(settings.text())
    assert len(texts) > 20


def test_keys_are_those_that_the_clients_have(settings, tmp_path):
    config = loaded(tmp_path, settings.text())
    assert {key.name: key.hash for key in config.keys} == {name: key_hash(key) for name, key in KEYS.items()}


def test_every_broken_file_is_refused(settings, tmp_path):
    found = {}
    for _ in range(100):
        what, text = settings.broken()
        found[what] = text
    assert set(found) == {what for what, _, _ in BROKEN}
    for text in found.values():
        with pytest.raises(ConfigError):
            loaded(tmp_path, text)


def test_the_same_seed_changes_the_same(tmp_path):
    one, two = (Settings(Place(1, 2, str(tmp_path), 2), Random(5)) for _ in range(2))
    for _ in range(10):
        assert one.change() == two.change()
        assert one.text() == two.text()
