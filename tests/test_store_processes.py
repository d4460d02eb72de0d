"""Many writers at once, killed writers, forks."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from autoprof import store_writer
from autoprof.errors import StoreError
from tests.stored import NOW_NS, delta, names, no_open_writers, reader, start, writer

__all__ = ["no_open_writers"]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_eight_processes_write_at_once(tmp_path: Path) -> None:
    script = """
w = writer(sys.argv[1], "together", started_ns=NOW_NS + int(sys.argv[2]))
for turn in range(25):
    stacks = [stack("a", f"b{n}", f"c{turn}") for n in range(40)]
    w.write([delta(f"m:f{n}") for n in range(40)], stacks, now_ns=NOW_NS)
    time.sleep(0.01)
w.close(NOW_NS)
"""
    running = [start(script, str(tmp_path / "out"), str(number)) for number in range(8)]
    problems = [process.communicate(timeout=120)[1] for process in running]
    assert problems == [b""] * 8
    data = reader(tmp_path / "out").select()
    assert names(tmp_path / "out") == ["autoprof-1.db"]
    assert len(data.processes) == 8
    assert all(row.calls == 8 * 25 * 10 for row in data.probes if row.target.startswith("m:"))
    assert len(data.probes) == 41
    assert sum(sums[0] for sums in data.stacks["shop:price", "profile", "sample"].values()) == 8 * 25 * 40


@forks
def test_eight_processes_make_the_file_at_once(tmp_path: Path) -> None:
    script = """
for turn in range(25):
    folder, go = os.path.join(sys.argv[1], str(turn)), time.time() + 0.1
    children = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            w = writer(folder, "together", started_ns=NOW_NS + number)
            while time.time() < go:
                pass
            w.write([delta("m:f")], now_ns=NOW_NS)
            w.close(NOW_NS)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
"""
    _, problems = start(script, str(tmp_path)).communicate(timeout=120)
    assert problems == b""
    for turn in range(25):
        assert names(tmp_path / str(turn)) == ["autoprof-1.db"], turn


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    script = """
w = writer(sys.argv[1], started_ns=time.time_ns())
while True:
    w.write([delta(calls=1)], [stack("a")], now_ns=time.time_ns())
    print("written", flush=True)
"""
    process = start(script, str(tmp_path))
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = reader(tmp_path).select()
    assert data.probes[0].calls >= 20
    writer(tmp_path, "next", started_ns=time.time_ns()).write([delta(calls=5)], now_ns=time.time_ns())
    assert reader(tmp_path).select().probes[0].calls == 5
    assert len(reader(tmp_path).runs()) == 2


@forks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_writes_its_own(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    child = os.fork()
    if not child:
        try:
            with pytest.raises(StoreError, match="after a fork"):
                made.write([delta()], now_ns=NOW_NS)
            made.close(NOW_NS)  # not its to close: nothing happens
            own = writer(tmp_path, pid=os.getpid())
            own.write([delta(calls=10)], now_ns=NOW_NS)
            own.close(NOW_NS)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    made.write([delta(calls=100)], now_ns=NOW_NS)
    made.close(NOW_NS)
    data = reader(tmp_path).select()
    assert (data.probes[0].calls, data.probes[0].processes) == (111, 2)
    assert names(tmp_path) == ["autoprof-1.db"]


@forks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_during_a_write_that_hangs_uses_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "_FORK_WAIT_S", 0.01)
    made = writer(tmp_path)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    assert made._lock.acquire(timeout=1)
    try:
        child = os.fork()
        if not child:
            try:
                own = writer(tmp_path, pid=os.getpid())
                own.write([delta(calls=10)], now_ns=NOW_NS)
                own.close(NOW_NS)
                os._exit(0)
            finally:
                os._exit(1)
    finally:
        made._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    made.close(NOW_NS)
    assert len(names(tmp_path)) == 2
    assert reader(tmp_path).select().probes[0].calls == 11


def test_another_process_holding_the_lock_is_an_error_and_the_batch_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "_BUSY_S", 0.3)
    made = writer(tmp_path)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    other = sqlite3.connect(tmp_path / "autoprof-1.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        made.write([delta(calls=2)], now_ns=NOW_NS)
    other.execute("ROLLBACK")
    other.close()
    made.write([delta(calls=2)], now_ns=NOW_NS)
    made.close(NOW_NS)
    assert reader(tmp_path).select().probes[0].calls == 3
