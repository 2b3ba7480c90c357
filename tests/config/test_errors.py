from config.errors import ConfigError, Problem

NEAR = Problem("server.prot", "an unknown key", "a key of server", "port", "a.toml:3")
BARE = Problem("routes", "nothing", "an array")


def test_every_part_of_a_problem_is_reported_and_the_problems_are_counted():
    assert str(ConfigError([NEAR, BARE])).splitlines() == [
        "server.prot  (a.toml:3)",
        "    found     an unknown key",
        "    expected  a key of server",
        "    nearest   port",
        "routes",
        "    found     nothing",
        "    expected  an array",
        "2 problems",
    ]


def test_one_problem_is_not_many():
    assert str(ConfigError([BARE])).endswith("\n1 problem")


def test_key_paths_are_what_is_emphasised():
    assert NEAR.lines(lambda text: f"<{text}>")[0] == "<server.prot>  (a.toml:3)"
