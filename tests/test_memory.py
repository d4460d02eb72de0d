"""`profile_memory` and the strategy `memory`: what they say is true, cheap to be let go of, and harms nobody."""

from __future__ import annotations

import errno
import gc
import json
import mmap
import os
import re
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import allocations, config, guard, host, session, signals, testing
from autoprof.errors import OptionError, PolicyErrors
from autoprof.policy import options_for
from autoprof.probe import Probe
from autoprof.sampler import recorder
from autoprof.strategies import memory as detail
from autoprof.strategies import profile_memory
from tests import mechanisms
from tests.conftest import REPOSITORY, Environment

LINUX = sys.platform == "linux"
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
OF_LINUX = pytest.mark.skipif(not LINUX, reason="rss from /proc")
SIZE = 32 << 20

SOURCE = """
kept = []
class Thing:
    pass
def nothing():
    pass
def keep(make):
    kept.append(make())
def call(act, *given):
    return act(*given)
def fail(error):
    kept.append(error.make())
    raise error
def stream(make):
    kept.append(make())
    yield 1
    yield 2
async def later(make, pause):
    await pause
    kept.append(make())
    return "done"
def things(number):
    kept.append([Thing() for _ in range(number)])
"""


class Subject:
    """A module with a memory policy on its functions."""

    def __init__(self, module: Any, output: Path, kind: str) -> None:
        self.module = module
        self.output = output
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def probe(self, qualname: str) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:{qualname}", self.kind]

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)


Make = Callable[..., Subject]


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    name = "subject_memory"

    def make_subject(**options: Any) -> Subject:
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:*", "policy": "profile_memory", **options}
        start["rules"] = [rule]
        module = mechanisms.MECHANISMS[request.param](SOURCE, name, start)
        return Subject(module, tmp_path / "out", rule["policy"])

    yield make_subject
    session.stop()
    sys.modules.pop(name, None)
    assert not recorder.deadlines
    assert tracemalloc.start is allocations._start and tracemalloc.stop is allocations._stop
    assert guard.internal_errors == {}


@pytest.fixture
def make_detail(make: Make) -> Make:
    return lambda **options: make(policy="profile", strategy="memory", rate=1.0, **options)


def touched(size_bytes: int = SIZE) -> mmap.mmap:
    """Return fresh memory in which every page was written."""
    fresh = mmap.mmap(-1, size_bytes)
    for start in range(0, size_bytes, mmap.PAGESIZE):
        fresh[start] = 1
    return fresh


class Failure(ValueError):
    """Allocates before it is raised."""

    @staticmethod
    def make() -> mmap.mmap:
        return touched()


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


def test_the_event_has_the_contracts_shape(make: Make) -> None:
    subject = make(metadata={"team": "pay"})
    with testing.capture() as events:
        subject.nothing()
    assert events.names == ["start", "stop", "memory", "complete"]
    event, complete = events[2], events[3]
    assert set(event.measurements) == {"before", "after", "delta", "types"}
    types = event.measurements["types"]
    assert set(types) == {"rss_bytes", "blocks", "gc_allocations"}
    for each in types.values():
        assert each is None or set(each) == {"before", "after", "delta"}
        assert each is None or each["delta"] == each["after"] - each["before"]
    assert types["rss_bytes"] == {name: event.measurements[name] for name in ("before", "after", "delta")}
    assert all(type(value) is int for value in types["rss_bytes"].values())
    assert event.measurements["before"] > 1_000_000
    assert event.metadata["strategy"] == "memory"
    assert event.metadata["policy"] == "profile_memory"
    assert event.metadata["user"] == {"team": "pay"}
    assert complete.measurements["memory_delta"] == event.measurements["delta"]
    assert complete.measurements["samples"] is None


def test_rss_is_what_the_system_says(make: Make) -> None:
    import psutil

    subject = make()
    with testing.capture("memory") as events:
        subject.nothing()
    said = psutil.Process().memory_info().rss
    assert abs(events[0].measurements["after"] - said) < 4_000_000


@pytest.mark.parametrize("size_mb", [16, 64])
def test_fresh_touched_memory_within_five_per_cent(make: Make, size_mb: int) -> None:
    subject = make()
    size_bytes = size_mb << 20
    with testing.capture("memory") as events:
        subject.keep(lambda: touched(size_bytes))
        subject.call(subject.kept.clear)
    for event, true_bytes in zip(events, (size_bytes, -size_bytes), strict=True):
        assert abs(event.measurements["delta"] - true_bytes) < 0.05 * size_bytes, event


@OF_LINUX
def test_a_fresh_bytearray_within_five_per_cent() -> None:
    """In a process of its own: in this one malloc may hold memory that others have freed."""
    program = (
        "from autoprof import profile_memory, signals\n"
        "deltas = []\n"
        "def receive(sender, *, measurements, metadata): deltas.append(measurements['delta'])\n"
        "signals.memory.connect(receive)\n"
        "@profile_memory\n"
        "def make(size): return bytearray(b'x') * size\n"
        "make(1)\n"
        "kept = [make(size << 20) for size in (16, 40, 100)]\n"
        "print([abs(delta / (size << 20) - 1) < 0.05 for delta, size in zip(deltas[1:], (16, 40, 100))])\n"
    )
    done = mechanisms.python(program)
    assert (done.returncode, done.stdout) == (0, "[True, True, True]\n"), done.stderr


def test_the_deltas_add_up(make: Make) -> None:
    subject = make()
    probe = subject.probe("keep")
    assert probe.memory_delta_bytes is None
    with testing.capture("memory") as events:
        for _ in range(3):
            subject.keep(touched)
    assert probe.memory_delta_bytes == sum(each.measurements["delta"] for each in events)
    assert probe.memory_delta_bytes > 2.8 * SIZE
    subject.kept.clear()


def test_our_own_memory_is_not_in_the_numbers(make: Make) -> None:
    subject = make()
    for _ in range(3):
        subject.nothing()
    with testing.capture("memory") as events:
        for _ in range(200):
            subject.nothing()
    types = [each.measurements["types"] for each in events]
    # A reading now and then meets the background threads' work: the middle one must be clean.
    for name, room in (("blocks", 2), ("gc_allocations", 1), ("rss_bytes", 0)):
        deltas = sorted(each[name]["delta"] for each in types if each[name])
        assert not deltas or abs(deltas[len(deltas) // 2]) <= room, (name, deltas[len(deltas) // 2])


def test_blocks_and_gc_allocations_are_counted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make()
    assert session.current is not None
    session.current.strategies["profile_memory"]._reader._blocks_max_ns = 10**12
    gc.collect()
    with testing.capture("memory") as events:
        subject.things(500)
    types = events[0].measurements["types"]
    assert 500 <= types["blocks"]["delta"] < 2_600
    assert 400 <= types["gc_allocations"]["delta"] < 1_200
    subject.kept.clear()


def test_blocks_are_left_out_while_counting_them_is_slow(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make()
    with testing.FakeClock() as clock, testing.capture("memory") as events:

        def slow() -> int:
            clock.advance(us=took_us)
            return 5

        monkeypatch.setattr(profile_memory, "getallocatedblocks", slow)
        took_us = 1
        subject.nothing()
        took_us = 200
        for _ in range(4):
            subject.nothing()
        clock.advance(s=11)
        took_us = 1
        for _ in range(2):
            subject.nothing()
    read = [each.measurements["types"]["blocks"] is not None for each in events]
    assert read == [True, True, True, False, False, True, True]
    assert all(each.measurements["delta"] is not None for each in events)


def test_threshold_decides_what_is_told_not_what_is_measured(make: Make) -> None:
    subject = make(threshold="16MB")
    probe = subject.probe("keep")
    with testing.capture() as events:
        subject.keep(lambda: None)
        subject.keep(touched)
        subject.nothing()
    assert len(events.named("memory")) == 1
    assert events.named("memory")[0].measurements["delta"] > 16_000_000
    assert len(events.named("complete")) == 3
    assert all(type(each.measurements["memory_delta"]) is int for each in events.named("complete"))
    assert (probe.calls, probe.profiled, probe.discarded) == (2, 2, 0)
    subject.kept.clear()


def test_emit_metrics_false_sends_nothing_and_sums(make: Make) -> None:
    subject = make(emit_metrics=False)
    with testing.capture() as events:
        subject.keep(touched)
    assert not events
    assert subject.probe("keep").memory_delta_bytes > 0.9 * SIZE  # type: ignore[operator]
    subject.kept.clear()


def test_not_in_production_unless_said(tmp_path: Path) -> None:
    text = "version: 1\nrules: [{match: 'a:b', policy: profile_memory%s}]\n"
    assert not config.loads(text % "", filename="p.yaml", env={}, env_name="prod").decide("a", "b").grants
    assert config.loads(text % "", filename="p.yaml", env={}, env_name="dev").decide("a", "b").grants
    assert (
        config.loads(text % ", env: [prod]", filename="p.yaml", env={}, env_name="prod")
        .decide("a", "b")
        .grants
    )


def test_exceptions_pass_and_are_measured(make: Make) -> None:
    subject = make()
    error = Failure("reason")
    with testing.capture() as events, pytest.raises(ValueError, match="reason") as caught:
        subject.fail(error)
    assert caught.value is error
    assert events.names == ["start", "exception", "memory", "complete"]
    assert events[2].measurements["delta"] > 0.9 * SIZE
    subject.kept.clear()


def test_generators_are_measured_from_call_to_end(make: Make) -> None:
    subject = make()
    with testing.capture("memory", "complete") as events:
        made = subject.stream(touched)
        next(made)
        assert not events
        assert list(made) == [2]
        del made
        gc.collect()
    assert events.names == ["memory", "complete"]
    assert events[0].measurements["delta"] > 0.9 * SIZE
    subject.kept.clear()


def test_coroutines_are_measured_to_their_end(make: Make) -> None:
    import asyncio

    subject = make()

    async def both() -> list[str]:
        return await asyncio.gather(
            subject.later(touched, asyncio.sleep(0.01)), subject.later(lambda: 1, asyncio.sleep(0))
        )

    with testing.capture("memory") as events:
        assert asyncio.run(both()) == ["done", "done"]
    assert max(each.measurements["delta"] for each in events) > 0.9 * SIZE
    assert subject.probe("later").profiled == len(events) == 2
    subject.kept.clear()


def test_threads_measure_at_the_same_time(make: Make) -> None:
    subject = make()
    inside = threading.Barrier(4)

    def work() -> None:
        for _ in range(50):
            subject.nothing()
        subject.call(inside.wait, 10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (subject.probe("nothing").profiled, subject.probe("nothing").skipped) == (200, {})
    assert (subject.probe("call").profiled, subject.probe("call").skipped) == (4, {})


def test_where_rss_is_unknown_the_call_counts_and_nothing_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make()
    monkeypatch.setattr(host.RssReader, "read", lambda self: None)
    with testing.capture() as events:
        subject.nothing()
    assert events.names == ["start", "stop", "complete"]
    assert events[-1].measurements["memory_delta"] is None
    assert (subject.probe("nothing").profiled, subject.probe("nothing").memory_delta_bytes) == (1, None)


# The descriptor of statm


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
@pytest.mark.skipif(not LINUX, reason="limits")
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
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ballast.close()
            with testing.capture("memory") as events:
                subject.nothing()
            import psutil

            said = psutil.Process().memory_info().rss
            right = abs(events[0].measurements["after"] - said) < 4_000_000
            own = list(statm_descriptors().values()) == [f"/proc/{os.getpid()}/statm"]
            os.write(writer, repr((right, own)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    assert said == "(True, True)"
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


# A leak


LEAKING = """
import sys

kept, slots, lines = [], [None] * 64, []

def leak(number):
    kept.append(bytes(67))          # 33 + 67 bytes

def sound(number):
    text = [str(each) for each in range(number % 50)]
    slots[number % 64] = bytes(67)  # what it keeps takes the place of what it kept
    return len(text)

def join(number):
    return ",".join(str(each) for each in range(60))  # the caller lets go of it

def tidy(number):
    lines[:] = [{"line": each} for each in range(20)]

for number in range(50_000):
    leak(number)
    sound(number)
    join(number)
    tidy(number)
"""


@OF_LINUX
def test_a_leak_of_100_bytes_a_call_is_found(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LEAKING)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nenv: prod\nbudget: off\nload: off\nreload: off\nrules:\n"
        "  - {match: '__main__:*', policy: profile_memory, env: [prod], threshold: 50MB}\n"
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"}, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    shown = environment.run("-m", "autoprof", "report", "--format", "json", cwd=tmp_path)
    rows = {each["target"]: each for each in json.loads(shown.stdout)["probes"]}
    assert {each["profiled"] for each in rows.values()} == {50_000}
    blocks = {
        name.partition(":")[2]: each["memory_blocks_delta"] / each["memory_blocks_calls"]
        for name, each in rows.items()
    }
    # A loaded machine reads blocks seldom (what takes over 10 us is left), and the writer's few show more in the mean.
    assert abs(blocks["leak"] - 1) < 0.3, blocks
    assert all(abs(blocks[each]) < 0.4 for each in ("sound", "tidy", "join")), blocks
    # Whose pages they are rss can't say (`sound` takes some that the leak then fills), but that there are more.
    assert sum(each["memory_delta_bytes"] for each in rows.values()) > 4_000_000, rows
    text = environment.run("-m", "autoprof", "report", "--format", "text", cwd=tmp_path).stdout
    (line,) = [
        each
        for each in text.splitlines()
        if re.search(r"\+[\d,]+ blocks in [\d,]+ calls, \+[01]\.\d\d a call", each) and "+0.0" not in each
    ]
    assert re.search(r"memory [\d.]+[KM]B; .*\+(1\.0\d|0\.9\d) a call", line)


LARGE = """
kept = []
def leak():
    kept.append(bytearray(b"x") * 70_000)
def sound():
    return len([str(each) for each in range(1_000)])
for _ in range(300):
    leak()
    sound()
"""


@OF_LINUX
def test_a_leak_of_large_blocks_is_in_rss(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LARGE)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nbudget: off\nload: off\nrules:\n  - {match: '__main__:*', policy: profile_memory}\n"
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    shown = environment.run("-m", "autoprof", "report", "--format", "json", cwd=tmp_path)
    grown = {each["target"]: each["memory_delta_bytes"] / 300 for each in json.loads(shown.stdout)["probes"]}
    assert 60_000 < grown["__main__:leak"] < 80_000, grown
    assert grown["__main__:leak"] > 4 * abs(grown["__main__:sound"]), grown


@pytest.mark.usefixtures("no_flushes")
def test_results_are_not_left_behind(make: Make) -> None:
    subject = make()
    assert session.current is not None
    session.current.strategies["profile_memory"]._reader._blocks_max_ns = 10**12
    probe = subject.probe("call")
    held = "held" * 20
    for act, stays in (
        (lambda number: "fresh" * number, 0),
        (lambda number: number * 10**6, 0),
        (lambda number: held, 0),
        (lambda number: None, 0),
        (lambda number: subject.kept.append("left" * number), 1),
    ):
        subject.call(act, 5)
        probe.take_memory_counts()
        for number in range(30, 60):
            subject.call(act, number)
        counts = probe.take_memory_counts()
        assert counts["blocks_calls"] == 30
        room = 0.5 if sys.gettrace() is None else 1.5  # a tracer of coverage's keeps blocks, too
        assert abs(counts["blocks"] / 30 - stays) < room, (counts, stays)
    probe.take_memory_counts()
    subject.call(lambda: [1])  # what all belongs to it is not known
    assert "blocks_calls" not in probe.take_memory_counts()
    subject.kept.clear()


def test_the_policy_file_for_leaks_is_good(environment: Environment) -> None:
    path = REPOSITORY / "config" / "memory-leak.yaml"
    done = environment.run("-m", "autoprof", "check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    policy = config.load(str(path), env={})
    assert policy.env == "prod" and policy.inactive == ()
    (batch,) = policy.decide("shop.reports", "sales_report").grants
    assert (batch.kind, batch.options["threshold_bytes"]) == ("profile_memory", 50_000_000)
    (handler,) = policy.decide("shop.app", "home").grants
    assert (handler.kind, handler.options["rate"]) == ("profile_memory", 0.1)
    deep = config.load(str(path), env={"LEAK_DETAIL": "true"}).decide("shop.reports", "sales_report")
    assert [each.kind for each in deep.grants] == ["profile_memory", "profile"]


# The strategy `memory`


def test_the_file_names_lines_and_types(make_detail: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)
    subject = make_detail(format="json")
    gc.collect()
    with testing.capture() as events:
        subject.things(3_000)
    assert events.names == ["start", "stop", "memory", "complete"]
    (path,) = subject.files()
    assert events[-1].metadata["profile"] == str(path)
    assert path.name.startswith("memory-subject_memory-things-") and path.name.endswith(f"-{os.getpid()}.json")
    data = json.loads(path.read_text())
    assert data["types"] == events[2].measurements["types"]
    assert data["types"]["blocks"]["delta"] > 2_500
    row = next(each for each in data["objects"] if each["type"] == "subject_memory.Thing")
    assert (row["before"], row["after"], row["delta"]) == (0, 3_000, 3_000)
    line = SOURCE[: SOURCE.index("kept.append([Thing()")].count("\n") + 1
    assert data["sites"][0]["file"].endswith("subject_memory.py") and data["sites"][0]["line"] == line
    assert 3_000 * 16 < data["sites"][0]["size_bytes"] < 3_000 * 500
    assert not [each for each in data["sites"] if f"{os.sep}autoprof{os.sep}" in each["file"]]
    assert data["peak_bytes"] >= data["sites"][0]["size_bytes"]
    subject.kept.clear()


def test_text_is_the_default(make_detail: Make) -> None:
    subject = make_detail()
    subject.keep(touched)
    (path,) = subject.files()
    text = path.read_text()
    assert path.suffix == ".txt" and text.startswith("subject_memory:keep, one call")
    assert "subject_memory.py:" in text or "test_memory.py:" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("rss", "Python", "gc"))] == [
        "rss",
        "Python",
        "gc",
    ]
    subject.kept.clear()


def test_a_call_that_allocates_nothing_shows_nothing(
    make_detail: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)
    monkeypatch.setattr(detail, "BLOCKS_MAX", 10**9)
    subject = make_detail(format="json")
    gc.collect()
    objects: list[Any] = []
    sites: list[Any] = []
    # A collection, another thread or coverage's tracer may come between now and then.
    for _ in range(100):
        subject.nothing()
        (path,) = subject.files()
        data = json.loads(path.read_text())
        objects.append(data["objects"])
        sites.append([each for each in data["sites"] if "subject_memory" in each["file"]])
        if [] in objects and [] in sites:
            break
    assert [] in objects, objects[-5:]
    assert [] in sites, sites[-5:]


def test_rss_is_right_under_tracing_too(make_detail: Make) -> None:
    subject = make_detail()
    with testing.capture("memory") as events:
        subject.keep(touched)
    assert abs(events[0].measurements["delta"] - SIZE) < 0.05 * SIZE
    subject.kept.clear()


def test_files_replace_each_other(make_detail: Make, tmp_path: Path) -> None:
    subject = make_detail()
    for _ in range(5):
        subject.nothing()
        assert session.current is not None
        session.current.flusher.flush()
    subject.things(1)
    assert len(subject.files()) == 2
    session.stop()
    from autoprof.store import StoreReader

    listed = [each.path for each in StoreReader([str(subject.output)]).select().artefacts]
    assert sorted(listed) == sorted(path.name for path in subject.files())


def test_a_discarded_call_leaves_nothing(make_detail: Make) -> None:
    subject = make_detail(threshold="1h")
    with testing.capture() as events:
        subject.keep(touched)
    assert events.names == ["start"]
    probe = subject.probe("keep")
    assert (probe.discarded, probe.profiled, probe.memory_delta_bytes) == (1, 0, None)
    assert subject.files() == [] and not tracemalloc.is_tracing()
    subject.kept.clear()


def test_one_call_at_a_time(make_detail: Make) -> None:
    subject = make_detail()

    def other() -> None:
        thread = threading.Thread(target=subject.nothing)
        thread.start()
        thread.join()

    subject.call(other)
    assert subject.probe("nothing").skipped == {"busy": 1}
    assert subject.probe("call").profiled == 1
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_exceptions_end_the_tracing(make_detail: Make) -> None:
    subject = make_detail()
    with testing.capture() as events, pytest.raises(ValueError, match="reason"):
        subject.fail(Failure("reason"))
    assert events.names == ["start", "exception", "memory", "complete"]
    assert not tracemalloc.is_tracing() and len(subject.files()) == 1
    subject.kept.clear()


def test_generators_and_coroutines_end_it_too(make_detail: Make) -> None:
    import asyncio

    subject = make_detail(format="json")
    made = subject.stream(lambda: [0] * 100_000)
    next(made)
    assert allocations._is_tracing()
    list(made)
    del made
    gc.collect()
    assert not allocations._is_tracing()

    async def run() -> None:
        await subject.later(lambda: [0] * 100_000, asyncio.sleep(0))

    asyncio.run(run())
    assert not allocations._is_tracing()
    for path in subject.files():
        assert json.loads(path.read_text())["sites"][0]["size_bytes"] >= 800_000
    assert len(subject.files()) == 2
    subject.kept.clear()


def test_an_abandoned_generator_gives_the_tracer_back(make_detail: Make) -> None:
    subject = make_detail()
    made = subject.stream(lambda: 1)
    next(made)
    assert allocations._is_tracing()
    del made
    gc.collect()
    assert not allocations._is_tracing()
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_tracing_ends_at_the_duration_and_the_call_goes_on(make_detail: Make) -> None:
    subject = make_detail(duration="20ms", format="json")
    seen = []

    def act() -> str:
        subject.kept.append([0] * 100_000)
        deadline = time.monotonic() + 10
        while allocations._is_tracing() and time.monotonic() < deadline:
            time.sleep(0.005)
        seen.append(allocations._is_tracing())
        subject.nothing()
        return "done"

    assert subject.call(act) == "done"
    assert seen == [False]
    path = next(path for path in subject.files() if "call" in path.name)
    assert json.loads(path.read_text())["sites"][0]["size_bytes"] >= 800_000
    assert subject.probe("nothing").profiled == 1  # the tracer was free again
    subject.kept.clear()


def test_the_applications_tracing_goes_on(make_detail: Make) -> None:
    """Its traces are read, its frames stay as deep, nothing of it is cleared."""
    subject = make_detail(format="json")
    subject.nothing()
    tracemalloc.start(7)
    try:
        mine = [bytes(1_000) for _ in range(500)]
        before = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
        subject.things(2_000)
        assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 7
        after = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
        here = {each.traceback: each.size for each in before.statistics("lineno") if each.size > 100_000}
        assert here
        assert here == {
            each.traceback: each.size for each in after.statistics("lineno") if each.traceback in here
        }
        everything = tracemalloc.take_snapshot().statistics("lineno")
        lines = [each for each in everything if "subject_memory" in str(each.traceback)]
        assert lines and lines[0].count >= 2_000
    finally:
        tracemalloc.stop()
    path = next(path for path in subject.files() if "things" in path.name)
    data = json.loads(path.read_text())
    assert data["sites"][0]["blocks"] >= 2_000 and "subject_memory" in data["sites"][0]["file"]
    assert data["peak_bytes"] is None
    del mine[:]
    subject.kept.clear()


def test_an_application_that_begins_to_trace_inside_gets_the_tracer(make_detail: Make) -> None:
    subject = make_detail(format="json")
    found: dict[str, Any] = {}

    def act() -> None:
        found["before"] = tracemalloc.is_tracing(), tracemalloc.get_traced_memory()
        tracemalloc.stop()
        with pytest.raises(RuntimeError, match="must be tracing"):
            tracemalloc.take_snapshot()
        tracemalloc.start(5)
        found["kept"] = [bytes(1_000) for _ in range(300)]

    try:
        subject.call(act)
        assert found["before"] == (False, (0, 0))
        assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 5
        sizes = [each.size for each in tracemalloc.take_snapshot().statistics("lineno")]
        assert max(sizes) > 300_000
    finally:
        tracemalloc.stop()
    data = json.loads(subject.files()[0].read_text())
    assert data["sites"] is None and "began to trace" in data["sites_note"]


def test_an_application_that_ends_its_tracing_inside(make_detail: Make) -> None:
    subject = make_detail(format="json")
    tracemalloc.start()
    subject.call(tracemalloc.stop)
    assert not tracemalloc.is_tracing()
    data = json.loads(subject.files()[0].read_text())
    assert data["sites"] is None and "ended the tracing" in data["sites_note"]


def test_our_tracing_does_not_hold_back_the_flusher(make_detail: Make) -> None:
    from autoprof import flusher

    subject = make_detail()
    assert subject.call(lambda: (allocations._is_tracing(), flusher.memory_is_traced())) == (True, False)
    tracemalloc.start()
    try:
        assert flusher.memory_is_traced()
    finally:
        tracemalloc.stop()


def test_too_many_objects_are_not_counted(make_detail: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_detail(format="json")
    monkeypatch.setattr(detail, "COUNT_MAX_NS", -1)
    subject.nothing()
    (path,) = subject.files()
    data = json.loads(path.read_text())
    assert data["objects"] is None and "took too long" in data["objects_note"]
    assert data["sites"] is not None


def test_hostile_types_are_counted_without_running_their_code(
    make_detail: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)

    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise AssertionError

    Odd = Meta("Odd\x1b[31m", (), {"__slots__": ("x",), "__class__": property(lambda self: 1 / 0)})
    subject = make_detail()
    subject.keep(lambda: [Odd() for _ in range(100)])
    (path,) = subject.files()
    text = path.read_text()
    assert "+100" in text and "Odd" in text and "\x1b" not in text
    subject.kept.clear()


@pytest.mark.parametrize("format_", ["svg", "html", "dot", "callgrind", "pstats"])
def test_other_formats_are_an_error(format_: str) -> None:
    with pytest.raises(OptionError, match=r"strategy memory has no such format.*known: text, json"):
        options_for("profile", strategy="memory", format=format_)
    text = f"version: 1\nrules: [{{match: 'a:b', policy: profile, strategy: memory, format: {format_}}}]\n"
    with pytest.raises(PolicyErrors, match="known: text, json"):
        config.loads(text, filename="p.yaml", env={})


@FORK
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_the_call_does_not_trace(make_detail: Make) -> None:
    subject = make_detail()
    reader, writer = os.pipe()
    child = subject.call(os.fork)
    if child == 0:
        status = 1
        try:
            tracing = allocations._is_tracing(), tracemalloc.start is allocations._start
            subject.nothing()
            said = (*tracing, subject.probe("nothing").profiled, subject.probe("call").profiled)
            os.write(writer, repr(said).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    assert said == "(False, True, 1, 0)"
    assert subject.probe("call").profiled == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_an_interrupt_inside_ends_the_tracing(make_detail: Make) -> None:
    subject = make_detail()
    with pytest.raises(KeyboardInterrupt):
        subject.call(signal.raise_signal, signal.SIGINT)
    assert not allocations._is_tracing()
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_stopping_inside_a_call(make_detail: Make) -> None:
    subject = make_detail()
    subject.call(session.stop)
    assert not allocations._is_tracing()


def test_receivers_see_the_same_signal_object(make: Make) -> None:
    import blinker

    assert blinker.signal("autoprof.memory") is signals.memory
    subject = make()
    got: list[str] = []

    def receive(sender: str, *, measurements: Any, metadata: Any) -> None:
        got.append(sender)

    with signals.memory.connected_to(receive, sender="subject_memory:keep"):
        subject.nothing()
        subject.keep(lambda: 1)
    assert got == ["subject_memory:keep"]


def test_the_benchmark_is_registered() -> None:
    from tests.benchmarks import __main__ as benchmarks
    from tests.benchmarks import memory

    assert benchmarks._ALL["memory"] is memory and memory.LIMIT_US == 25.0
