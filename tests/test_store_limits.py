"""A store keeps to its size and its age, and what it lets go of is counted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from autoprof import store_bounds
from autoprof.store import StoreWriter
from tests.stored import DAY_NS, NOW_NS, delta, no_open_writers, reader, stack, writer

__all__ = ["no_open_writers"]


def _fill(made: StoreWriter, batches: int, prefix: str = "f") -> None:
    for turn in range(batches):
        stacks = [
            stack(
                "root",
                f"{prefix}{turn}",
                *(f"frame{turn}:{number}:{depth}" for depth in range(20)),
                samples=2,
            )
            for number in range(50)
        ]
        made.write([delta(calls=1)], stacks, now_ns=NOW_NS + turn)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_store_stays_within_its_size(tmp_path: Path) -> None:
    limit = 2 << 20
    made = writer(tmp_path, max_size_bytes=limit)
    largest = 0
    for part in range(12):
        _fill(made, 10, f"p{part}-")
        largest = max(largest, _size(tmp_path))
    made.close(NOW_NS)
    assert largest < limit * 1.3
    assert _size(tmp_path) < limit
    data = reader(tmp_path).select()
    assert data.probes[0].calls == 120
    kept = sum(sums[0] for sums in data.stacks["shop:price", "profile", "sample"].values())
    assert 0 < kept < 120 * 100
    assert kept + data.dropped == 120 * 100


def test_old_runs_go_first_and_this_one_stays(tmp_path: Path) -> None:
    for run in ("oldest", "older"):
        made = writer(tmp_path, run, started_ns=NOW_NS - DAY_NS, max_size_bytes=64 << 20)
        made.write([delta(calls=1)], [stack(*(f"{run}{n}" for n in range(1000)))], now_ns=NOW_NS - DAY_NS)
        made.close(NOW_NS - DAY_NS + (run == "older"))
    made = writer(tmp_path, "current", max_size_bytes=1 << 20)
    _fill(made, 9)
    made.close(NOW_NS)
    runs = [info.run for info in reader(tmp_path).runs()]
    assert "current" in runs
    assert "oldest" not in runs
    assert reader(tmp_path).select("current").probes[0].calls == 9


def test_runs_too_old_are_dropped_with_their_names(tmp_path: Path) -> None:
    made = writer(tmp_path, "old", started_ns=NOW_NS - 9 * DAY_NS)
    made.write([delta("gone:f")], [stack("gone:frame", target="gone:f")], now_ns=NOW_NS - 8 * DAY_NS)
    made.close(NOW_NS - 8 * DAY_NS)
    made = writer(tmp_path, "new")
    made.write([delta()], [stack("kept:frame")], now_ns=NOW_NS)
    made.write([delta()], [stack("kept:frame")], now_ns=NOW_NS)
    made.close(NOW_NS)
    assert [info.run for info in reader(tmp_path).runs()] == ["new"]
    assert reader(tmp_path).select().stacks["shop:price", "profile", "sample"] == {
        ("kept:frame",): [2, 20_000_000]
    }
    database = sqlite3.connect(tmp_path / "autoprof-1.db")
    assert not database.execute("SELECT text FROM names WHERE text LIKE 'gone%'").fetchall()
    assert not database.execute("SELECT 1 FROM probes WHERE target LIKE 'gone%'").fetchall()
    database.close()


def test_ended_processes_are_folded_when_there_is_no_room(tmp_path: Path) -> None:
    for pid in range(1, 6):
        made = writer(tmp_path, pid=pid)
        made.write([delta(calls=pid)], [stack("a")], now_ns=NOW_NS + pid, overhead_ns=1, dropped=1)
        made.close(NOW_NS + pid)
    made = writer(tmp_path, pid=9)
    made.write([delta(calls=100)], [stack("a")], now_ns=NOW_NS)
    assert made._connection is not None
    store_bounds._fold_processes(made._connection, "run-1", NOW_NS)
    made.close(NOW_NS)
    data = reader(tmp_path).select()
    assert data.probes[0].calls == 115
    assert len(data.processes) == 2
    assert data.dropped == 5
    assert sum(row.overhead_ns for row in data.processes) == 5
    assert data.stacks["shop:price", "profile", "sample"] == {("a",): [6, 60_000_000]}


def test_writers_notice_that_another_one_deleted_names(tmp_path: Path) -> None:
    first, second = writer(tmp_path, pid=1), writer(tmp_path, pid=2)
    first.write([delta()], [stack("a", "b")], now_ns=NOW_NS)
    second.write([delta()], [stack("x", "y")], now_ns=NOW_NS)
    assert second._connection is not None
    while store_bounds._thin_stacks(second._connection, second._process or 0):
        pass
    second.write([delta()], [stack("other", "names")], now_ns=NOW_NS)
    first.write([delta()], [stack("a", "b")], now_ns=NOW_NS)
    for made in (first, second):
        made.close(NOW_NS)
    found = reader(tmp_path).select().stacks["shop:price", "profile", "sample"]
    assert found == {("a", "b"): [1, 10_000_000], ("other", "names"): [1, 10_000_000]}
