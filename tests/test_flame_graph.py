"""The strategy `flame_graph`: one call, followed by pyinstrument, drawn by our own renderers."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import session, testing
from autoprof.probe import Probe
from tests import mechanisms

pytest.importorskip("pyinstrument")

SOURCE = """
from time import perf_counter
def work(seconds=0.03, act=None, fail=None):
    run_spin(seconds)
    if act: return act()
    if fail: raise fail
    return "done"
def run_spin(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end: pass
"""


class Shop:
    """A module with `flame_graph` on `work`."""

    def __init__(self, module: Any, output: Path) -> None:
        self.work = module.work
        self.module = module
        self.output = output

    @property
    def probe(self) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:work", "flame_graph"]

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)


Make = Callable[..., Shop]


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    def make_shop(**options: Any) -> Shop:
        name = "subject_flame"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        start["rules"] = [{"match": f"{name}:work", "policy": "flame_graph", "every": "0s", **options}]
        return Shop(mechanisms.MECHANISMS[request.param](SOURCE, name, start), tmp_path / "out")

    yield make_shop
    session.stop()
    sys.modules.pop("subject_flame", None)
    assert sys.getprofile() is None


def test_svg_is_the_default(make: Make) -> None:
    shop = make()
    with testing.capture() as events:
        assert shop.work() == "done"
    (path,) = shop.files()
    assert path.suffix == ".svg"
    text = path.read_text()
    ElementTree.fromstring(text)
    assert "work" in text and "run_spin" in text
    assert "test_svg_is_the_default" not in text
    assert events.names == ["start", "stop", "complete"]
    complete = events[-1]
    assert complete.metadata["profile"] == str(path)
    assert complete.metadata["strategy"] == "flame_graph"
    assert complete.measurements["samples"] > 5
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_html(make: Make) -> None:
    shop = make(format="html")
    shop.work()
    (path,) = shop.files()
    assert path.suffix == ".html"
    assert "run_spin" in path.read_text()


def test_json_is_a_speedscope_file(make: Make) -> None:
    shop = make(format="json")
    shop.work()
    (path,) = shop.files()
    document = json.loads(path.read_text())
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = [frame["name"] for frame in document["shared"]["frames"]]
    assert any("work" in name for name in names) and any("run_spin" in name for name in names)
    total_ns = sum(document["profiles"][0]["weights"])
    assert 10_000_000 < total_ns < 500_000_000


def test_output_placeholders_and_replacement(make: Make) -> None:
    shop = make(output="flames/{target}-{pid}.svg")
    shop.work()
    shop.work()
    (path,) = shop.files()
    assert path.parent.name == "flames"
    assert re.fullmatch(rf"subject_flame-work-{os.getpid()}\.svg", path.name)
    assert shop.probe.profiled == 2


def test_output_with_the_time_keeps_both(make: Make) -> None:
    shop = make(output="{time}.svg")
    shop.work()
    time.sleep(0.01)
    shop.work()
    assert len(shop.files()) == 2


def test_absolute_output(make: Make, tmp_path: Path) -> None:
    shop = make(output=str(tmp_path / "elsewhere" / "one.svg"))
    shop.work()
    assert (tmp_path / "elsewhere" / "one.svg").exists()


def test_an_unwritable_place_costs_the_file_only(make: Make, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    shop = make(output=str(blocked / "one.svg"))
    with testing.capture("complete") as events:
        assert shop.work() == "done"
    assert events[0].metadata["profile"] is None
    from autoprof import guard

    assert guard.internal_errors.pop("artefact") == 1


def test_every_is_a_second_unless_said_otherwise(make: Make) -> None:
    shop = make(every="1h")
    for _ in range(5):
        shop.work(0.005)
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (5, 1, {})


def test_one_call_at_a_time(make: Make) -> None:
    shop = make()
    results: list[Any] = []

    def other() -> None:
        thread = threading.Thread(target=lambda: results.append(shop.work(0.001)))
        thread.start()
        thread.join()

    shop.work(0.02, act=other)
    assert results == ["done"]
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (2, 1, {"busy": 1})
    shop.work(0.01)
    assert shop.probe.profiled == 2


def test_the_application_may_use_pyinstrument_inside(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make()

    def act() -> str:
        with Profiler(interval=0.001) as profiler:
            end = time.perf_counter() + 0.02
            while time.perf_counter() < end:
                pass
        return profiler.output_text()

    assert "test_flame_graph.py" in shop.work(0.02, act=act)
    assert len(shop.files()) == 1
    assert "run_spin" in shop.files()[0].read_text()


def test_the_applications_pyinstrument_has_the_right_of_way(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make()
    profiler = Profiler(interval=0.001)
    with profiler:
        assert shop.work() == "done"
    assert shop.probe.skipped == {"other_profiler": 1}
    assert "run_spin" in profiler.output_text(show_all=True)
    shop.work()
    assert shop.probe.profiled == 1


def test_exceptions_pass_and_are_drawn(make: Make) -> None:
    shop = make()
    error = ValueError("reason")
    with testing.capture() as events, pytest.raises(ValueError, match="reason") as caught:
        shop.work(fail=error)
    assert caught.value is error
    assert events.names == ["start", "exception", "complete"]
    assert len(shop.files()) == 1
    assert sys.getprofile() is None


def test_a_call_too_short_for_a_sample_makes_no_file(make: Make) -> None:
    shop = make(interval="50ms")
    assert shop.work(0.0) == "done"
    assert shop.probe.profiled == 1
    assert len(shop.files()) <= 1


def test_measuring_stops_after_the_duration(make: Make) -> None:
    shop = make(duration="20ms", format="json")
    shop.work(0.08)
    (path,) = shop.files()
    total_ns = sum(json.loads(path.read_text())["profiles"][0]["weights"])
    assert total_ns < 45_000_000


def test_generators_are_left_alone(tmp_path: Path) -> None:
    start = mechanisms.policy("subject_flame", str(tmp_path / "out"))
    start["rules"] = [{"match": "subject_flame:*", "policy": "flame_graph"}]
    module = mechanisms.spliced_at_import("def numbers():\n    yield 1\n", "subject_flame", start)
    try:
        assert list(module.numbers()) == [1]
        assert sys.getprofile() is None
    finally:
        session.stop()
        del sys.modules["subject_flame"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_the_call_is_not_followed(make: Make) -> None:
    shop = make()
    reader, writer = os.pipe()
    child = shop.work(0.02, act=os.fork)
    if child == 0:
        status = 1
        try:
            hook = sys.getprofile()
            again = shop.work(0.02)
            said = (hook is None, again, shop.probe.profiled, sys.getprofile() is None)
            os.write(writer, repr(said).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    assert said == "(True, 'done', 1, True)"
    assert shop.probe.profiled == 1
