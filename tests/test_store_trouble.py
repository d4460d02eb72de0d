"""Many writers, killed writers, forks, damaged files, newer files, full disks, vanished folders, limits."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprof import store_bounds, store_file, store_writer
from autoprof.errors import StoreError
from autoprof.store import StoreWriter
from tests.stored import DAY_NS, NOW_NS, SECOND_NS, delta, no_open_writers, reader, stack, writer

__all__ = ["no_open_writers"]

REPOSITORY = Path(__file__).parents[1]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Python with our helpers imported."""
    head = "import os, sys, time; from tests.stored import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def names(folder: Path) -> list[str]:
    """Return the names of the stores in a folder."""
    return [os.path.basename(path) for _, path in store_file.store_files(str(folder))]


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


@pytest.mark.parametrize("in_log", [False, True])
def test_a_newer_store_is_left_untouched(tmp_path: Path, in_log: bool) -> None:
    path = tmp_path / "autoprof-1.db"
    database = sqlite3.connect(path, isolation_level=None)
    if in_log:
        database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE future(x)")
    database.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer autoprof"):
        writer(tmp_path).write([delta()], now_ns=NOW_NS)
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="newer autoprof"):
        reader(tmp_path).select()
    database.close()


def test_a_store_of_the_next_schema_does_not_disturb(tmp_path: Path) -> None:
    future = tmp_path / "autoprof-2.db"
    future.write_bytes(b"whatever the future holds")
    with pytest.raises(StoreError, match=r"newer autoprof \(schema 2"):
        reader(tmp_path).select()
    writer(tmp_path).write([delta()], now_ns=NOW_NS)
    data = reader(tmp_path).select()
    assert data.probes[0].calls == 10
    assert "autoprof-2.db" in data.notices[0]
    assert future.read_bytes() == b"whatever the future holds"


def _foreign(path: Path) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TABLE theirs(x)")
    database.close()


def _truncated(path: Path) -> None:
    made = writer(path.parent, "lost")
    made.write([delta(f"m:f{number}") for number in range(500)], now_ns=NOW_NS)
    made.close(NOW_NS)
    content = path.read_bytes()
    path.write_bytes(content[:5000])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database at all, " * 100),
        lambda path: path.write_bytes(b"x"),
        _foreign,
        _truncated,
    ],
)
def test_a_damaged_store_is_left_aside(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "autoprof-1.db"
    damage(path)  # type: ignore[operator]
    before = path.read_bytes()
    for pid in (1, 2):
        made = writer(tmp_path, pid=pid)
        made.write([delta(calls=7)], now_ns=NOW_NS)
        assert "left as it is" in made.take_notices()[0]
        assert made.take_notices() == []
        made.close(NOW_NS)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["autoprof-1.db", "autoprof-1.new1.db"]
    data = reader(tmp_path).select()
    assert data.probes[0].calls == 14


def test_damage_while_writing(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta(f"m:f{number}") for number in range(300)], now_ns=NOW_NS)
    assert made._connection is not None
    made._disconnect()
    path = tmp_path / "autoprof-1.db"
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    made.write([delta(calls=3)], now_ns=NOW_NS)
    assert "autoprof-1.new1.db" in made.take_notices()[0]
    made.close(NOW_NS)


def test_a_vanished_folder_is_made_again(tmp_path: Path) -> None:
    made = writer(tmp_path / "out")
    made.write([delta(calls=1)], [stack("a")], now_ns=NOW_NS)
    shutil.rmtree(tmp_path / "out")
    made.write([delta(calls=2)], [stack("a")], now_ns=NOW_NS)
    made.close(NOW_NS)
    data = reader(tmp_path / "out").select()
    assert data.probes[0].calls == 2
    assert data.stacks["shop:price", "profile", "sample"] == {("a",): [1, 10_000_000]}


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    for path in tmp_path.iterdir():
        path.unlink()
    made.write([delta(calls=2)], now_ns=NOW_NS)
    made.close(NOW_NS)
    assert reader(tmp_path).select().probes[0].calls == 2


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_an_impossible_folder_is_a_clear_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("here is no room")
    with pytest.raises(StoreError, match=r"cannot store profiles in .*(not a folder|Not a directory)"):
        writer(tmp_path / folder).write([delta()], now_ns=NOW_NS)
    assert (tmp_path / "file").read_text() == "here is no room"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/autoprof-cannot-be-made-here")
        if not folder.parent.is_dir():
            pytest.skip("root can write everywhere here")
    else:
        folder = tmp_path / "locked" / "out"
        folder.parent.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot store profiles"):
        writer(folder).write([delta()], now_ns=NOW_NS)


def test_a_full_disk_loses_only_the_batch(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="needs RLIMIT_FSIZE")
    script = """
import resource, signal
from autoprof.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
w = writer(sys.argv[1])
w.write([delta(calls=1)], now_ns=NOW_NS)
limit = 300_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    for turn in range(100):
        w.write([delta(f"m:f{turn}-{n}") for n in range(200)], now_ns=NOW_NS)
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
w.write([delta(calls=2)], now_ns=NOW_NS)
w.close(NOW_NS)
"""
    process = start(script, str(tmp_path))
    out, problems = process.communicate(timeout=60)
    assert problems == b""
    assert b"cannot store profiles in" in out
    row = next(row for row in reader(tmp_path).select().probes if row.target == "shop:price")
    assert row.calls == 3


def test_a_real_full_disk(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        made = writer(mounted)
        made.write([delta(calls=1)], now_ns=NOW_NS)
        with pytest.raises(StoreError, match=r"disk is full|disk I/O error"):
            for turn in range(100):
                made.write([delta(f"m:f{turn}-{number}") for number in range(200)], now_ns=NOW_NS)
        assert any(row.target == "shop:price" for row in reader(mounted).select().probes)
        made._disconnect()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


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


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local\\040disk ext4 rw 0 0
//box/share /mnt/share cifs rw 0 0
user@host: /mnt/ssh fuse.sshfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "network"),
    [
        ("/", False),
        ("/srv/data", False),
        ("/home", True),
        ("/home/me/data", True),
        ("/homestead", False),
        ("/home/local disk/data", False),
        ("/mnt/share/x", True),
        ("/mnt/ssh/x", True),
    ],
)
def test_network_disks_are_known(tmp_path: Path, folder: str, network: bool) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert store_file.on_network_disk(folder, str(table)) is network
    assert store_file.on_network_disk(folder, str(tmp_path / "none")) is False


def test_on_a_network_disk_each_process_has_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "on_network_disk", lambda folder: True)
    for pid in (11, 12):
        made = writer(tmp_path, pid=pid)
        made.write([delta(calls=pid)], [stack("a")], now_ns=NOW_NS)
        made.close(NOW_NS)
    assert [name.split(".")[1:3] for name in names(tmp_path)] == [["test", "11"], ["test", "12"]]
    data = reader(tmp_path).select()
    assert (data.probes[0].calls, len(data.processes)) == (23, 2)
    assert not list(tmp_path.glob("*-wal"))


def test_files_of_old_runs_go_from_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "on_network_disk", lambda folder: True)
    for run, pid in (("old", 1), ("current", 2)):
        made = writer(tmp_path, run, pid)
        made.write([delta()], now_ns=NOW_NS)
        made.close(NOW_NS)
        old = NOW_NS - 30 * DAY_NS
        os.utime(made.path, ns=(old, old))
    made = writer(tmp_path, "current", 3)
    made.write([delta()], now_ns=NOW_NS + SECOND_NS)
    made.close(NOW_NS)
    assert sorted(row.pid for row in reader(tmp_path).select("all").processes) == [2, 3]


def test_where_wal_is_impossible_each_process_has_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store_file.open_for_writing

    def no_wal(path: str, **options: object) -> sqlite3.Connection:
        if options["shared"]:
            raise store_file.NoWalError("journal mode wal is not possible here")
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store_file, "open_for_writing", no_wal)
    made = writer(tmp_path, pid=77)
    made.write([delta()], now_ns=NOW_NS)
    made.close(NOW_NS)
    assert ".77." in names(tmp_path)[0]


def test_a_read_only_folder_can_be_read(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta()], now_ns=NOW_NS)
    made.close(NOW_NS)
    os.chmod(tmp_path, 0o500)
    try:
        assert reader(tmp_path).select().probes[0].calls == 10
    finally:
        os.chmod(tmp_path, 0o700)


def test_a_closed_writer_can_write_again(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    made.close(NOW_NS)
    made.close(NOW_NS)
    made.write([delta(calls=1)], now_ns=NOW_NS)
    made.close(NOW_NS)
    assert reader(tmp_path).select().probes[0].calls == 2


def test_nothing_is_no_data(tmp_path: Path) -> None:
    assert not reader(tmp_path / "none").select().probes
    assert not reader(tmp_path).runs()
    (tmp_path / "autoprof-1.db").touch()
    assert not reader(tmp_path).select("all").probes
