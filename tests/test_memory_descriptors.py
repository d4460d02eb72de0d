"""The descriptor of statm: one when needed, none afterwards, and never anybody else's."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import host, session, testing
from tests import mechanisms
from tests.forked import told_by_child
from tests.memory_module import BACK_ENDS, FORK, LINUX, OF_LINUX, SIZE, Make, makes, touched


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def statm_descriptors() -> dict[str, str]:
    """Return number → path of this process's descriptors of any statm."""
    found = {}
    for each in descriptors():
        try:
            path = os.readlink(f"/proc/self/fd/{each}")
        except OSError:  # that of the listing itself
            continue
        if path.endswith("/statm"):
            found[each] = path
    return found


@OF_LINUX
def test_one_descriptor_when_needed_and_none_afterwards(make: Make) -> None:
    before = descriptors()
    subject = make()
    assert descriptors() == before
    for _ in range(5):
        subject.nothing()
    (ours,) = statm_descriptors()
    assert int(ours) >= host._FROM_DESCRIPTOR and not os.get_inheritable(int(ours))
    session.stop()
    assert not statm_descriptors()


@OF_LINUX
def test_a_closed_descriptor_gives_right_figures() -> None:
    reader = host.RssReader()
    first = reader.read()
    os.close(reader._descriptor)
    fresh = touched()
    second = reader.read()
    assert first is not None and second is not None
    assert second - first > 0.9 * SIZE
    assert reader._descriptor >= host._FROM_DESCRIPTOR
    reader.close()
    fresh.close()


@OF_LINUX
def test_a_descriptor_that_became_another_file_is_neither_read_nor_closed(tmp_path: Path) -> None:
    reader = host.RssReader()
    reader.read()
    number = reader._descriptor
    path = tmp_path / "statm"
    path.write_text("1 1 1 1 0 1 0\n")
    theirs = os.open(path, os.O_RDONLY)
    os.dup2(theirs, number)  # closes ours
    assert reader.read() > 1_000_000  # type: ignore[operator]
    assert reader._descriptor != number
    os.dup2(theirs, reader._descriptor)
    second = reader._descriptor
    reader.close()
    for each in (number, second, theirs):
        assert os.fstat(each).st_ino == path.stat().st_ino
        os.close(each)


@OF_LINUX
def test_after_close_nothing_stays_open() -> None:
    before = descriptors()
    reader = host.RssReader()
    reader.read()
    reader.close()
    assert reader.read() > 1_000_000  # type: ignore[operator]
    assert descriptors() == before


@OF_LINUX
def test_no_descriptor_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    reader = host.RssReader()
    with monkeypatch.context() as patched:
        patched.setattr(host, "open", full)
        assert reader.read() is None
    assert reader.read() > 1_000_000  # type: ignore[operator]
    reader.close()


@OF_LINUX
@pytest.mark.skipif(not LINUX, reason="no module resource, or another limit, elsewhere")
def test_a_low_limit_of_descriptors_means_opening_each_time() -> None:
    program = (
        "import resource, os; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from autoprof import host\n"
        "reader = host.RssReader(); before = os.listdir('/proc/self/fd')\n"
        "print(reader.read() > 1_000_000, reader.read() > 1_000_000, os.listdir('/proc/self/fd') == before)\n"
    )
    done = mechanisms.python(program)
    assert (done.returncode, done.stdout) == (0, "True True True\n"), done.stderr


def test_psutil_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    reader = host.RssReader()
    monkeypatch.setattr(reader, "_page_bytes", 0)
    said = psutil.Process().memory_info().rss
    assert abs(reader.read() - said) < 4_000_000  # type: ignore[operator]
    monkeypatch.setitem(sys.modules, "psutil", None)
    again = host.RssReader()
    again._page_bytes = 0
    assert again.read() is None and again.read() is None


@FORK
@OF_LINUX
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_reads_its_own_memory(make: Make) -> None:
    subject = make()
    subject.nothing()
    ballast = touched()
    subject.nothing()

    def in_child() -> object:
        ballast.close()
        with testing.capture("memory") as events:
            subject.nothing()
        import psutil

        said = psutil.Process().memory_info().rss
        right = abs(events[0].measurements["after"] - said) < 4_000_000
        return right, list(statm_descriptors().values()) == [f"/proc/{os.getpid()}/statm"]

    assert told_by_child(os.fork, in_child) == "(True, True)"
    ballast.close()


@OF_LINUX
def test_a_program_that_closes_everything() -> None:
    """A daemon's first step; then it opens files of its own, which must stay its own."""
    program = (
        "import os, mmap, autoprof, sys\n"
        "from autoprof import signals\n"
        "deltas = []\n"
        "def receive(sender, *, measurements, metadata): deltas.append(measurements['delta'])\n"
        "signals.memory.connect(receive)\n"
        "@autoprof.profile_memory\n"
        "def work(n):\n"
        "    fresh = mmap.mmap(-1, n)\n"
        "    for i in range(0, n, 4096): fresh[i] = 1\n"
        "    return fresh\n"
        "kept = [work(4096)]\n"
        "os.closerange(3, 1000)\n"
        "mine = [os.open('/dev/null', os.O_RDONLY) for _ in range(300)]\n"
        "kept += [work(32 << 20), work(4096)]\n"
        "autoprof.stop()\n"
        "for each in mine: assert os.readlink(f'/proc/self/fd/{each}') == '/dev/null'; os.close(each)\n"
        "print(len(deltas), abs(deltas[1] - (32 << 20)) < 1_600_000, abs(deltas[2]) < 1_000_000)\n"
    )
    done = mechanisms.python(program)
    assert (done.returncode, done.stdout) == (0, "3 True True\n"), done.stderr
