"""What goes into the store comes out as sums, whoever wrote it and whatever it is called."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autoprof.errors import StoreError
from autoprof.store import Artefact, ProbeState
from autoprof.store_bounds import CALLS_AT_ONCE
from autoprof.store_records import CallsDelta
from tests.stored import (
    DAY_NS,
    HOSTILE,
    HOUR_NS,
    NOW_NS,
    SECOND_NS,
    delta,
    no_open_writers,
    reader,
    stack,
    writer,
)

__all__ = ["no_open_writers"]


REPOSITORY = Path(__file__).parents[1]


def test_nothing_is_touched_before_the_first_write(tmp_path: Path) -> None:
    made = writer(tmp_path / "out")
    made.close(NOW_NS)
    assert not (tmp_path / "out").exists()


def test_deltas_are_added_up(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta(skipped={"nested": 2}, callees={"a:b": 3}, memory_counts={"blocks": -4})], now_ns=NOW_NS)
    more = delta(calls=5, durations=(9000,), skipped={"nested": 1, "busy": 4}, memory_delta_bytes=-7)
    made.write([more, delta("other:f")], now_ns=NOW_NS + SECOND_NS)
    made.close(NOW_NS + 2 * SECOND_NS)
    data = reader(tmp_path).select()
    row = next(row for row in data.probes if row.target == "shop:price")
    assert (row.calls, row.profiled, row.total_ns, row.max_ns) == (15, 3, 13_000, 9000)
    assert row.skipped_by == {"nested": 3, "busy": 4}
    assert row.callees == {"a:b": 3}
    assert row.memory_counts == {"blocks": -4}
    assert row.memory_delta_bytes == -7
    assert row.estimated_total_ns == round(13_000 / 3 * 15)
    assert row.processes == 1
    assert len(data.probes) == 2


def test_what_was_not_measured_is_none(tmp_path: Path) -> None:
    writer(tmp_path).write([delta(durations=())], now_ns=NOW_NS)
    (row,) = reader(tmp_path).select().probes
    assert row.estimated_total_ns is None
    assert row.memory_delta_bytes is None


def test_stacks_are_added_up_root_first(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta()], [stack("a", "b", samples=2), stack("a", "c"), stack()], now_ns=NOW_NS)
    made.write([], [stack("a", "b", samples=3)], now_ns=NOW_NS + 120 * SECOND_NS)
    found = reader(tmp_path).select().stacks["shop:price", "profile", "sample"]
    assert found == {("a", "b"): [5, 50_000_000], ("a", "c"): [1, 10_000_000], (): [1, 10_000_000]}


def test_artefacts_and_states(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write(
        [delta()],
        artefacts=[Artefact("a:f", "r", "flame_graph", "flame_graph", "f.svg", "svg", NOW_NS, duration_ns=3)],
        states=[ProbeState("a:f", "r", "profile", "sample", "waiting", "not imported yet")],
        now_ns=NOW_NS,
    )
    made.write([], states=[ProbeState("a:f", "r", "profile", "sample", "installed", "")], now_ns=NOW_NS)
    data = reader(tmp_path).select()
    assert [(item.path, item.duration_ns) for item in data.artefacts] == [("f.svg", 3)]
    assert [(item.target, item.state) for item in data.states] == [("a:f", "installed")]


def test_some_states_are_changed_and_the_others_stay(tmp_path: Path) -> None:
    made = writer(tmp_path)
    names = [f"a:f{each}" for each in range(500)]
    made.write([delta()], states=[_state(each, "waiting") for each in names], now_ns=NOW_NS)
    assert made.stated
    made.write([], states=[_state(names[7], "installed"), _state("a:new", "shed")], whole=False, now_ns=NOW_NS)
    found = {each.target: each.state for each in reader(tmp_path).select().states}
    assert found == {**dict.fromkeys(names, "waiting"), names[7]: "installed", "a:new": "shed"}
    assert len(made._ids.known) == 1, "who is only named takes no memory"
    for each in tmp_path.glob("*.db"):
        each.unlink()
    made.write([delta()], states=[], whole=False, now_ns=NOW_NS)
    assert not made.stated, "another file knows none of them"


def _state(target: str, state: str) -> ProbeState:
    return ProbeState(target, "r", "profile", "sample", state, "")


def test_processes_of_a_run_are_summed_and_runs_told_apart(tmp_path: Path) -> None:
    for pid in (101, 102, 103):
        made = writer(tmp_path, "first", pid)
        made.write([delta(calls=pid)], [stack("a")], now_ns=NOW_NS, overhead_ns=5, dropped=1)
        made.close(NOW_NS + pid)
    made = writer(tmp_path, "second", 104, started_ns=NOW_NS + 10)
    made.write([delta(calls=1)], now_ns=NOW_NS + 20)
    made.close(NOW_NS + 30)
    last = reader(tmp_path).select()
    assert (last.run, last.probes[0].calls, last.started_ns, last.ended_ns) == (
        "second",
        1,
        NOW_NS + 10,
        NOW_NS + 30,
    )
    first = reader(tmp_path).select("first")
    assert (first.probes[0].calls, first.probes[0].processes, first.dropped) == (306, 3, 3)
    assert first.stacks["shop:price", "profile", "sample"] == {("a",): [3, 30_000_000]}
    assert (first.started_ns, first.ended_ns) == (NOW_NS, NOW_NS + 103)
    both = reader(tmp_path).select("all")
    assert (both.run, both.probes[0].calls, len(both.processes)) == ("all", 307, 4)
    assert reader(tmp_path).select("fir").run == "first"
    assert not reader(tmp_path).select("third").runs


def test_an_ambiguous_run_is_an_error(tmp_path: Path) -> None:
    for run in ("aa1", "aa2"):
        writer(tmp_path, run).write([delta()], now_ns=NOW_NS)
    with pytest.raises(StoreError, match="ambiguous: aa1, aa2"):
        reader(tmp_path).select("aa")


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("shop.*:find_*", ["shop.db:find_all"]),
        ("shop.db:*", ["shop.db:find_all", "shop.db:save"]),
        ("save", ["shop.db:save"]),
        ("shop.db", ["shop.db:find_all", "shop.db:save"]),
        ("*", ["main:find_x", "shop.db:find_all", "shop.db:save"]),
        ("nothing", []),
    ],
)
def test_targets_are_selected(tmp_path: Path, glob: str, found: list[str]) -> None:
    targets = ["shop.db:find_all", "shop.db:save", "main:find_x"]
    writer(tmp_path).write(
        [delta(target) for target in targets], [stack("a", target="main:find_x")], now_ns=NOW_NS
    )
    data = reader(tmp_path).select(target_glob=glob)
    assert sorted(row.target for row in data.probes) == found


def test_since_takes_only_what_came_after(tmp_path: Path) -> None:
    made = writer(tmp_path, started_ns=NOW_NS - 5 * HOUR_NS)
    made.write([delta(calls=1)], [stack("old")], now_ns=NOW_NS - 5 * HOUR_NS)
    made.write([delta(calls=2)], [stack("new")], now_ns=NOW_NS - 300 * SECOND_NS)
    made.close(NOW_NS)
    data = reader(tmp_path).select(since_ns=NOW_NS - 1800 * SECOND_NS, now_ns=NOW_NS)
    assert data.probes[0].calls == 2
    assert list(data.stacks["shop:price", "profile", "sample"]) == [("new",)]
    assert data.started_ns == NOW_NS - 1800 * SECOND_NS
    assert not reader(tmp_path).select(since_ns=NOW_NS + 1, now_ns=NOW_NS + 2).probes


@pytest.mark.parametrize("age_ns", [30 * SECOND_NS, 20 * 60 * SECOND_NS, 3 * HOUR_NS, 3 * DAY_NS])
def test_folding_slots_loses_nothing_and_since_still_finds_it(tmp_path: Path, age_ns: int) -> None:
    made = writer(tmp_path, started_ns=NOW_NS - age_ns)
    for minute in range(30):
        when = NOW_NS - age_ns - minute * 60 * SECOND_NS
        made.write([delta(calls=1, durations=(when % 1000,))], [stack("a", f"m{minute % 3}")], now_ns=when)
    made._housekeeping_s = 0.0
    made.write([delta(calls=0, durations=())], now_ns=NOW_NS)
    made.close(NOW_NS)
    (row,) = reader(tmp_path).select().probes
    assert (row.calls, sum(row.durations.values())) == (30, 30)
    assert sum(sums[0] for sums in reader(tmp_path).select().stacks[row.key].values()) == 30
    recent = reader(tmp_path).select(since_ns=NOW_NS - age_ns - 1, now_ns=NOW_NS).probes
    assert recent[0].calls >= 1
    with sqlite3.connect(tmp_path / "autoprof-1.db") as database:
        (slots,) = database.execute("SELECT count(DISTINCT slot) FROM counts").fetchone()
    database.close()
    assert slots <= (31 if age_ns < 10 * 60 * SECOND_NS else 6)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_back(tmp_path: Path, name: str) -> None:
    made = writer(tmp_path, name or "r", env=name)
    made.write(
        [delta(name, rule=name, policy=name, strategy=name, skipped={name: 1}, callees={name: 2})],
        [stack(name, "x", name, target=name)],
        [Artefact(name, name, name, name, name, name, NOW_NS)],
        states=[ProbeState(name, name, name, name, name, name)],
        now_ns=NOW_NS,
    )
    data = reader(tmp_path).select()
    expected = name.encode("utf-8", "backslashreplace").decode()
    row = next(row for row in data.probes if row.calls)
    assert (row.target, row.rule, row.policy) == (expected,) * 3
    assert row.callees == {expected: 2}
    assert any((expected, "x", expected) in stacks for stacks in data.stacks.values())
    assert data.artefacts[0].path == expected


def test_a_whole_program_as_a_name_is_cut_but_stays_itself(tmp_path: Path) -> None:
    names = ["a" * 100_000 + end for end in ("1", "2")]
    writer(tmp_path).write([delta(name) for name in names], now_ns=NOW_NS)
    targets = {row.target for row in reader(tmp_path).select().probes}
    assert len(targets) == 2
    assert all(len(target) <= 16_384 for target in targets)


def test_numbers_too_large_for_sqlite(tmp_path: Path) -> None:
    made = writer(tmp_path)
    for _ in range(3):
        made.write([delta(calls=10**30, total_ns=-(10**30))], [stack("a", samples=10**25)], now_ns=NOW_NS)
    assert reader(tmp_path).select().probes[0].calls > 10**18


def test_nothing_secret_is_stored(tmp_path: Path) -> None:
    secret = "s3cret-" + "argument"
    script = (
        "import os, sys; from tests.stored import *\n"
        f"w = writer({str(tmp_path)!r}); w.write([delta()], [stack('a')], now_ns=NOW_NS); w.close(NOW_NS)"
    )
    env = {**os.environ, "SECRET": secret}
    subprocess.run([sys.executable, "-c", script, secret], env=env, check=True)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"shop:price" in content
    assert secret.encode() not in content


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX ones")
def test_only_the_owner_can_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = writer(tmp_path / "out")
        made.write([delta()], now_ns=NOW_NS)
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
        made.close(NOW_NS)
        os.umask(0o077)
        writer(tmp_path / "group", output_mode=0o750).write([delta()], now_ns=NOW_NS)
        assert (tmp_path / "group").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "group" / "autoprof-1.db").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


@pytest.mark.parametrize("number", [1, CALLS_AT_ONCE - 1, CALLS_AT_ONCE, 2 * CALLS_AT_ONCE + 5])
def test_what_has_only_calls_is_stored_many_at_once(number: int, tmp_path: Path) -> None:
    made = writer(tmp_path)
    keys = [(f"m:f{each}", "rule 1", "profile", "sample") for each in range(number)]
    made.write([CallsDelta(key, place + 1) for place, key in enumerate(keys)], now_ns=NOW_NS)
    made.write([CallsDelta(keys[0], 5), delta("m:f0", calls=2), CallsDelta(keys[0], 7)], now_ns=NOW_NS)
    found = {row.target: row.calls for row in reader(tmp_path).select().probes}
    assert found == {key[0]: place + 1 + (14 if place == 0 else 0) for place, key in enumerate(keys)}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_that_have_only_calls(name: str, tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([CallsDelta((name, name, "profile", "sample"), 1 << 80)], now_ns=NOW_NS)
    made.write([CallsDelta((name, name, "profile", "sample"), -5)], now_ns=NOW_NS)
    (found,) = reader(tmp_path).select().probes
    assert found.calls == (1 << 62) - 5


def test_a_batch_of_500_is_quick(tmp_path: Path) -> None:
    import time

    made = writer(tmp_path)
    probes = [delta(f"m:f{number}") for number in range(500)]
    stacks = [stack("root", f"f{number % 40}", f"g{number}", target=f"m:f{number}") for number in range(500)]
    made.write(probes, stacks, now_ns=NOW_NS)
    taken = []
    for _ in range(5):
        began = time.thread_time()
        made.write(probes, stacks, now_ns=NOW_NS)
        taken.append(time.thread_time() - began)
    assert min(taken) < 0.1  # of processor time; 6 to 8 ms where it was measured


def test_importing_the_store_is_light(tmp_path: Path) -> None:
    script = (
        "import sys, json, sqlite3; before = set(sys.modules); import autoprof.store; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=REPOSITORY)
    loaded = json.loads(done.stdout)
    unwanted = {
        "ssl",
        "socket",
        "threading",
        "dataclasses",
        "inspect",
        "logging",
        "typing",
        "hashlib",
        "asyncio",
    }
    assert not unwanted & set(loaded)
    assert "autoprof.store_reader" not in loaded
