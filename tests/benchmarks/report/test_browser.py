"""The pages in a real browser: Debian's package `chromium`, which `make test` installs where it may."""

import os
import shutil
import subprocess

import pytest
from bs4 import BeautifulSoup

from benchmarks.report.compare import comparison
from benchmarks.report.page import html
from tests.benchmarks.report import reports

CHROMIUM = shutil.which("chromium")
MAKERS = {
    "hostile": lambda: html(reports.hostile()),
    "many": lambda: comparison([reports.report(), reports.hostile()], [], []),
}


def opened(text, folder):
    (folder / "page.html").write_text(text, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-extensions"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", f"file://{folder}/page.html"]
    done = subprocess.run(command, capture_output=True, timeout=50, check=True, text=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return BeautifulSoup(done.stdout, "html.parser"), console


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (apt-get install chromium)"
)
@pytest.mark.parametrize("name", MAKERS)
def test_every_chart_is_drawn_and_nothing_else_runs(name, tmp_path):
    soup, console = opened(MAKERS[name](), tmp_path)
    assert console == []
    places = soup.select(".plot")
    assert len(places) >= 2
    for place in places:
        assert place.select_one("svg.main-svg .xaxislayer-above, svg.main-svg .xtick")
        assert place.select("path.js-line, .bars path, path.point")
        assert "--" not in "".join(path.get("style", "") for path in place.select("path"))  # every colour was found
    assert soup.title.text != "taken"
    assert not soup.select("main img")
