"""The watcher of the policy file: every kind of edit is seen, and once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from autoprof.reload import Watcher


def watcher(path: Path) -> tuple[Watcher, list[bytes], list[OSError]]:
    changed: list[bytes] = []
    gone: list[OSError] = []

    def take(content: bytes, sure: bool) -> bool:
        changed.append(content if not sure else content + b", surely")
        return b"bad" not in content

    content = path.read_bytes() if path.exists() else None
    return Watcher(str(path), content, 1.0, take, gone.append), changed, gone


def go_on(seconds: float) -> bool:
    return True


def test_every_kind_of_edit_is_seen_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, gone = watcher(path)
    watched.look(go_on)
    assert changed == []
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    watched.look(go_on)
    watched.look(go_on)
    stat = path.stat()
    other = tmp_path / "other"
    other.write_text("c")  # same size, same time, renamed over
    os.utime(other, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    other.replace(path)
    watched.look(go_on)
    path.unlink()
    watched.look(go_on)
    watched.look(go_on)
    path.write_text("c")
    watched.look(go_on)
    path.write_text("d")
    watched.look(go_on)
    assert changed == [b"b", b"c", b"d"] and len(gone) == 1


def test_what_is_not_liked_is_asked_again_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, _ = watcher(path)
    path.write_text("bad")
    for _ in range(3):
        watched.look(go_on)
    assert changed == [b"bad", b"bad, surely"]
    path.write_text("bad too")
    watched.look(go_on)
    path.write_text("good")
    watched.look(go_on)
    watched.look(go_on)
    assert changed[2:] == [b"bad too", b"good"]


@pytest.mark.parametrize(("faults", "asked"), [(1, 2), (3, 4), (5, 6), (9, 6)])
def test_faults_of_ours_are_made_up_for_at_later_looks(tmp_path: Path, faults: int, asked: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    asks: list[bytes] = []

    def changed(content: bytes, surely: bool) -> bool:
        asks.append(content)
        if len(asks) <= faults:
            raise MemoryError
        return True

    watched = Watcher(str(path), b"a", 1.0, changed, lambda error: None)
    path.write_text("b")
    for _ in range(10):
        with contextlib.suppress(MemoryError):
            watched.look(go_on)
    assert asks == [b"b"] * asked


def test_a_symlink_swap_as_kubernetes_does_it(tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text)
        os.utime(tmp_path / name / "policy.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "policy.yaml"
    path.symlink_to("..data/policy.yaml")
    watched, changed, _ = watcher(path)
    watched.look(go_on)
    (tmp_path / "..new").symlink_to("two")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    watched.look(go_on)
    assert changed == [b"b"]


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, _ = watcher(path)
    watched.look(go_on)
    path.write_text("half")
    writes = iter(["half and", "half and more", None])

    def pause(seconds: float) -> bool:
        text = next(writes, None)
        if text:
            path.write_text(text)
        return True

    watched.look(pause)
    assert changed == [b"half and more"]
