"""The drawings work in a real browser: they run their script, zoom, search, sort, and load nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprof.reports import html, svg
from tests.stored import NOW_NS, delta, no_open_writers, reader, stack, writer

__all__ = ["no_open_writers"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1300,900",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
]
STACKS = [
    (("m:a (f.py:1)", "m:b (f.py:2)"), 60),
    (("m:a (f.py:1)", "m:c (f.py:3)"), 30),
    (("m:d (f.py:4)",), 10),
]


def browse(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Open a file in a fresh Chromium; what its console says is on stderr."""
    command = [CHROMIUM or "", *FLAGS, f"--user-data-dir={path.parent / 'profile'}", *more, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, encoding="utf-8")


def dom(path: Path) -> str:
    """Return a page as it is after its scripts, which must not have failed or been refused."""
    done = browse(path, "--dump-dom")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints
    return done.stdout


def acting(script: str) -> str:
    """Return a script element that acts on frames by the name in their tooltip."""
    helper = (
        "function frame(name) { return [].slice.call(document.querySelectorAll('.f')).find(function (g) {"
        "return g.querySelector('title').textContent.indexOf(name) === 0; }); }"
    )
    return f"<script>{helper}{script}</script>"


def frame(page: str, name: str) -> str:
    """Return the markup of one frame."""
    found = re.search(rf'<g class="f[^>]*>\s*<title>{re.escape(name)}[^<]*</title>.*?</g>', page, re.S)
    assert found, page[:2000]
    return found[0]


def drawing(tmp_path: Path, script: str) -> str:
    """Return a drawing after something was done in it."""
    path = tmp_path / "graph.svg"
    path.write_text(
        svg.render_stacks(STACKS, title="t", unit="samples").replace("</svg>", acting(script) + "</svg>")
    )
    return dom(path)


def test_a_drawing_by_itself(tmp_path: Path) -> None:
    page = drawing(tmp_path, "")
    assert 'placeholder="Search frames"' in page
    assert 'tabindex="0"' in frame(page, "all")
    assert 'width="1080.00"' in frame(page, "m:a")


def test_a_click_zooms(tmp_path: Path) -> None:
    page = drawing(tmp_path, "frame('m:c').dispatchEvent(new MouseEvent('click', {bubbles: true}));")
    assert 'x="0.00"' in frame(page, "m:c") and 'width="1200.00"' in frame(page, "m:c")
    assert "above" in frame(page, "m:a") and 'width="1200.00"' in frame(page, "m:a")
    assert "display: none" in frame(page, "m:b")
    assert "display: none" in frame(page, "m:d")


def test_escape_goes_back_and_arrows_walk(tmp_path: Path) -> None:
    press = (
        "function press(g, key) { g.dispatchEvent(new KeyboardEvent('keydown', {key: key, bubbles: true})); }"
    )
    walk = "press(frame('all'), 'ArrowDown'); press(frame('m:a'), 'Enter'); press(frame('m:a'), 'ArrowDown');"
    page = drawing(tmp_path, press + walk + "press(frame('m:b'), 'ArrowRight');")
    assert 'tabindex="0"' in frame(page, "m:c")
    assert 'width="1200.00"' in frame(page, "m:a")
    page = drawing(tmp_path, press + walk + "press(frame('m:b'), 'Escape');")
    assert 'width="1080.00"' in frame(page, "m:a")
    assert "display: none" not in frame(page, "m:d")


def test_search_counts_each_sample_once(tmp_path: Path) -> None:
    search = "var i = document.querySelector('input'); i.value = 'M:'; i.dispatchEvent(new Event('input'));"
    page = drawing(tmp_path, search)
    assert "4 frames match, 100.0% of all" in page
    assert 'class="f hit"' in frame(page, "m:d")
    page = drawing(tmp_path, search.replace("M:", "m:c (f"))
    assert "1 frame matches, 30.0% of all" in page


def report(tmp_path: Path) -> str:
    """Return a page of two targets, the second with a hostile name."""
    evil = "evil:<img src=x onerror=alert(1)>"
    made = writer(tmp_path / "out")
    made.write(
        [delta("shop:price", calls=5), delta(evil, calls=90)],
        [stack("shop:price (a.py:1)", "m:f (b.py:2)", samples=9), stack(evil, target=evil)],
        now_ns=NOW_NS,
    )
    return html.render(reader(tmp_path / "out").select())


def test_a_page_may_run_only_its_own_scripts(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report(tmp_path), encoding="utf-8")
    page = dom(path)
    assert page.count('placeholder="Search frames"') == 2
    assert re.search(r'<input class="filter" placeholder="Filter targets"', page)
    assert "<img" not in page
    foreign = "<script>document.title = 'foreign'</script>"
    path.write_text(path.read_text().replace("</body>", foreign + "</body>"))
    refused = browse(path, "--dump-dom")
    assert "Content Security Policy" in refused.stderr
    assert "<title>foreign" not in refused.stdout


def test_a_page_sorts_and_filters(tmp_path: Path) -> None:
    acts = (
        "document.querySelectorAll('th button')[2].click();"
        "var i = document.querySelector('input.filter'); i.value = 'PRICE';"
        "i.dispatchEvent(new Event('input'));"
    )
    path = tmp_path / "report.html"
    page = re.sub(r"<meta http-equiv=[^>]*>", "", report(tmp_path)).replace(
        "</body>", acting(acts) + "</body>"
    )
    path.write_text(page, encoding="utf-8")
    shown = dom(path)
    assert 'aria-sort="descending"><button type="button">Calls' in shown
    rows = re.findall(r'<tr data-target="([^"]*)"( hidden="")?>', shown)
    assert [(target[:4], bool(hidden)) for target, hidden in rows] == [("evil", True), ("shop", False)]


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_a_picture_of_it_is_not_empty(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"graph.{kind}"
    render = svg.render_stacks if kind == "svg" else html.render_stacks
    path.write_text(render(STACKS, title="one call"), encoding="utf-8")
    picture = tmp_path / "picture.png"
    browse(path, f"--screenshot={picture}")
    assert picture.stat().st_size > 5_000
