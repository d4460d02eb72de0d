"""The files that strategies make: where they lie, what they hold, what a bad disk costs, how reports list them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import artefacts, guard, session
from autoprof import probe as probes
from autoprof.reports import json as json_report
from autoprof.reports import text
from autoprof.store import StoreReader
from tests.flames import BACK_ENDS, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


def report_of(shop: Any) -> Any:
    """Stop, and return what `autoprof report` reads."""
    session.stop()
    return StoreReader([str(shop.output)]).select()


def test_a_strategy_of_profile(make: Make) -> None:
    shop = make(policy="profile", strategy="flame_graph", rate=1.0, format="html")
    shop.work(0.02)
    (path,) = shop.files()
    assert path.suffix == ".html" and "run_spin" in path.read_text()
    assert shop.probe.strategy_name == "flame_graph" and shop.probe.policy == "profile"


def test_the_report_lists_a_replaced_file_once(make: Make) -> None:
    shop = make(output="sales.svg")
    for seconds in (0.01, 0.02, 0.01):
        shop.work(seconds)
        assert session.current is not None
        session.current.flusher.flush()  # each in a batch of its own
    newest_size = shop.files()[0].stat().st_size
    data = report_of(shop)
    assert [(each.path, each.size_bytes) for each in data.artefacts] == [("sales.svg", newest_size)]
    assert text.render(data).count("sales.svg") == 1
    assert [each["path"] for each in json.loads(json_report.render(data))["artefacts"]] == ["sales.svg"]


def test_a_file_that_two_stores_name_is_listed_once(make: Make) -> None:
    shop = make(output="sales.svg")
    shop.work(0.01)
    report_of(shop)
    data = StoreReader([str(shop.output), str(shop.output)]).select()
    assert [each.path for each in data.artefacts] == ["sales.svg"]


def test_the_stacks_reach_the_report(make: Make) -> None:
    shop = make()
    shop.work(0.03)
    samples = shop.probe.samples
    data = report_of(shop)
    (stacks,) = data.stacks.values()
    assert sum(count for count, _ in stacks.values()) == samples > 5
    deepest = max(stacks, key=len)
    assert re.fullmatch(r"subject_flame:work \(.*subject_flame.py:\d+\)", deepest[0])
    assert deepest[1].startswith("subject_flame:run_spin (")
    (row,) = data.probes
    assert row.samples == samples


def test_a_full_disk_costs_the_file_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make(output="one.svg")
    shop.work(0.01)
    before = shop.files()[0].read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artefacts.os, "replace", full)
    assert shop.work(0.01) == "done"
    monkeypatch.undo()
    (path,) = shop.files()  # and no half-written one beside it
    assert path.read_text() == before
    assert guard.internal_errors.pop("artefact") == 1


def test_a_vanished_folder_is_made_again(make: Make) -> None:
    shop = make(output="flames/one.svg")
    shop.work(0.01)
    shutil.rmtree(shop.output / "flames")
    shop.work(0.01)
    assert (shop.output / "flames" / "one.svg").exists()


def test_readers_of_a_replaced_file_see_whole_ones(make: Make) -> None:
    shop = make(output="one.json", format="json")
    path = shop.output / "one.json"
    shop.work(0.01)
    over = threading.Event()
    broken: list[str] = []

    def read() -> None:
        while not over.is_set():
            try:
                json.loads(path.read_text())
            except (ValueError, OSError) as error:
                broken.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        shop.work(0.003)
    over.set()
    reader.join()
    assert not broken


@pytest.mark.parametrize("name", ["日本語" * 60, "a" * 300])
def test_file_names_stay_short_enough(name: str, tmp_path: Path) -> None:
    probe = probes.Probe(f"module:{name}", "rule 1", "flame_graph", None, {"output": "{target}.svg"})
    path = artefacts.path_for(str(tmp_path), probe, "svg")
    artefacts.write_atomically(path, "content")
    assert len(os.listdir(tmp_path)) == 1
