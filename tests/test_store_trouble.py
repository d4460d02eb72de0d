"""Damaged files, newer files, full disks, vanished folders, network disks."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from autoprof import store_file
from autoprof.errors import StoreError
from tests.stored import (
    DAY_NS,
    NOW_NS,
    SECOND_NS,
    delta,
    names,
    no_open_writers,
    reader,
    stack,
    start,
    writer,
)

__all__ = ["no_open_writers"]


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
