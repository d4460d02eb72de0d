"""When figures mean load: means of 5 s, whose CPU and memory, who waits; hysteresis and dwell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprof import host, load
from autoprof.load import PAUSED_NS, RUNNING_NS, SECOND_NS, Judge, Meter, Reading, lower

MB = 1 << 20
SHARES = st.one_of(st.none(), st.floats(0, 2))
READINGS = st.builds(Reading, *[SHARES] * 6)


def reading(**shares: float) -> Reading:
    return load.NOTHING._replace(**shares)


# the judge


def test_pauses_above_and_resumes_well_below() -> None:
    judge = Judge(0.8, 0.9)
    assert not judge.look(reading(cpu=0.8, memory=0.9), 0)
    assert judge.look(reading(cpu=0.81), SECOND_NS, lambda: "the machine's 2 CPUs")
    assert judge.reason == (
        "paused by load: 81% of the machine's 2 CPUs is in use (mean of 5 s), above load: cpu 80%"
    )
    later_ns = SECOND_NS + PAUSED_NS
    assert not judge.look(reading(cpu=0.0), later_ns - 1)  # the dwell
    assert not judge.look(reading(cpu=0.71), later_ns)  # the hysteresis
    assert judge.look(reading(cpu=0.69, memory=0.1), later_ns)
    assert judge.reason == ""
    assert judge.below(reading(cpu=0.69, memory=0.1)) == "load is over: cpu 69%, memory 10%"


def test_memory_has_its_own_limit() -> None:
    judge = Judge(0.8, 0.9)
    assert not judge.look(reading(memory=0.89), 0)
    assert judge.look(reading(memory=0.95), 0, memory_of=lambda: "the container's 512MB")
    assert judge.reason == "paused by load: 95% of the container's 512MB is in use, above load: memory 90%"
    assert not judge.look(reading(memory=0.82), PAUSED_NS)
    assert judge.look(reading(memory=0.79), PAUSED_NS)


@pytest.mark.parametrize(
    "name, said",
    [
        ("gil", "the GIL"),
        ("queue", "wait for a CPU"),
        ("throttled", "was throttled"),
        ("loop", "their event loop"),
    ],
)
def test_who_waits_is_bounded_by_the_limit_of_the_cpu(name: str, said: str) -> None:
    assert not Judge(None, 0.9).look(reading(**{name: 1.0}), 0)
    judge = Judge(0.8, None)
    assert judge.look(reading(**{name: 0.85}), 0)
    assert said in judge.reason and judge.reason.endswith("above load: cpu 80%")


def test_no_figure_never_pauses_and_lets_go_on() -> None:
    judge = Judge(0.8, 0.9)
    assert not judge.look(load.NOTHING, 0)
    assert judge.look(reading(cpu=1.0), 0)
    assert judge.look(load.NOTHING, PAUSED_NS)
    assert (judge.reason, judge.below(load.NOTHING)) == ("", "load is over: there is no figure any more")


@given(cpu=st.one_of(st.none(), st.floats(0.01, 1)), memory=st.one_of(st.none(), st.floats(0.01, 1)),
       looks=st.lists(st.tuples(READINGS, st.integers(0, 4 * SECOND_NS)), max_size=60))  # fmt: skip
def test_it_changes_only_for_a_reason_and_not_too_often(
    cpu: float | None, memory: float | None, looks: list[tuple[Reading, int]]
) -> None:
    judge = Judge(cpu, memory)
    now_ns, paused, changed_ns = 0, False, None
    for seen, gap_ns in looks:
        now_ns += gap_ns
        figures = [(f, cpu) for f in (seen.cpu, seen.gil, seen.queue, seen.throttled, seen.loop)] + [
            (seen.memory, memory)
        ]
        known = [(figure, limit) for figure, limit in figures if figure is not None and limit is not None]
        changed = judge.look(seen, now_ns)
        assert bool(judge.reason) == (paused != changed)
        if changed:
            if paused:
                assert all(figure <= lower(limit) for figure, limit in known)
                assert changed_ns is not None and now_ns - changed_ns >= PAUSED_NS
            else:
                assert any(figure > limit for figure, limit in known)
                assert changed_ns is None or now_ns - changed_ns >= RUNNING_NS
            paused, changed_ns = not paused, now_ns
        elif not paused and (changed_ns is None or now_ns - changed_ns >= RUNNING_NS):
            assert all(figure <= limit for figure, limit in known)


@given(st.floats(0.001, 1))
def test_the_lower_limit_is_below_and_above_nothing(limit: float) -> None:
    assert 0 < lower(limit) < limit


# the meter, in a made-up machine


class Machine:
    """A machine whose figures are set by the test; `pass_s` lets time pass, with its CPUs busy for a share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self" / "task").mkdir(parents=True)
        (root / "thread-self").mkdir()
        (root / "pressure").mkdir()
        (root / "cg").mkdir()
        self.now_ns = 10**15
        self.ticks = [0, 0]
        self.usage_ns = self.pressure_ns = 0
        self.throttling = [0, 0]
        self.tasks: dict[str, list[int]] = {}
        self.quota = "max"
        self.memory(0.5)
        self.meter = Meter(str(root))
        self.meter._host.cpus = lambda: frozenset((0, 1))  # type: ignore[method-assign]
        mount = f"1 1 0:1 / {root / 'cg'} rw - cgroup2 none rw\n"
        (root / "self" / "mountinfo").write_text(mount)
        (root / "self" / "cgroup").write_text("0::/\n")

    def memory(self, share: float) -> None:
        total = 4_000_000
        (self.root / "meminfo").write_text(
            f"MemTotal: {total} kB\nMemFree: 5 kB\nMemAvailable: {int(total * (1 - share))} kB\n"
        )

    def write(self) -> None:
        busy, idle = self.ticks
        lines = "".join(f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 99 99\n" for n in (0, 1))
        (self.root / "stat").write_text(f"cpu 1 1 1 1\n{lines}cpu7 0 0 0 999999\nintr 5\n")
        periods, throttled = self.throttling
        stat = f"usage_usec {self.usage_ns // 1000}\nnr_periods {periods}\nnr_throttled {throttled}\n"
        (self.root / "cg" / "cpu.stat").write_text(stat)
        (self.root / "cg" / "cpu.max").write_text(f"{self.quota} 100000\n")
        (self.root / "pressure" / "cpu").write_text(
            f"some avg10=0.00 total={self.pressure_ns // 1000}\nfull total=0\n"
        )
        for name, (run, wait) in self.tasks.items():
            (self.root / "self" / "task" / name).mkdir(exist_ok=True)
            (self.root / "self" / "task" / name / "schedstat").write_text(f"{run} {wait} 9\n")

    def pass_s(self, seconds: float, *, busy: float = 0.0, used: float = 0.0, throttled: float = 0.0,
               pressed: float = 0.0, late_ms: float = 0.0, **tasks: tuple[float, float]) -> Reading:  # fmt: skip
        """Let time pass in steps of half a second and return the last reading."""
        seen = load.NOTHING
        for _ in range(round(seconds * 2)):
            self.now_ns += SECOND_NS // 2
            self.ticks[0] += round(50 * busy)
            self.ticks[1] += 50 - round(50 * busy)
            self.usage_ns += int(used * SECOND_NS / 2)
            self.throttling[0] += 100
            self.throttling[1] += round(100 * throttled)
            self.pressure_ns += int(pressed * SECOND_NS / 2)
            for name, (run, wait) in tasks.items():
                sums = self.tasks.setdefault(name.strip("t"), [0, 0])
                sums[0] += int(run * SECOND_NS / 2)
                sums[1] += int(wait * SECOND_NS / 2)
            self.write()
            self.meter.woke(int(late_ms * 1_000_000))
            seen = self.meter.read(self.now_ns)
        return seen


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_mean_goes_back_five_seconds(machine: Machine) -> None:
    assert machine.pass_s(5, busy=1.0).cpu is None
    assert machine.pass_s(0.5, busy=1.0).cpu == 1.0
    assert machine.pass_s(2.5, busy=0.0).cpu == pytest.approx(0.5)
    assert machine.pass_s(2.5, busy=0.0).cpu == 0.0
    assert machine.meter.cpu_of() == "the machine's 2 CPUs"


def test_after_a_long_sleep_the_mean_starts_anew(machine: Machine) -> None:
    assert machine.pass_s(6, busy=1.0).cpu == 1.0
    machine.now_ns += 20 * SECOND_NS
    assert machine.pass_s(5, busy=0.0).cpu is None
    assert machine.pass_s(0.5, busy=0.0).cpu == 0.0


def test_the_container_comes_before_the_machine(machine: Machine) -> None:
    machine.quota = "150000"
    machine.write()
    assert machine.pass_s(6, busy=1.0, used=0.75).cpu == pytest.approx(0.5)
    assert machine.meter.cpu_of() == "the container's 1.5 CPUs"


def test_a_quota_of_all_the_cpus_bounds_nothing(machine: Machine) -> None:
    machine.quota = "200000"
    machine.write()
    assert machine.pass_s(6, busy=1.0, used=0.5).cpu == 1.0
    assert machine.meter.cpu_of() == "the machine's 2 CPUs"


def test_a_container_that_is_resized_while_it_runs(machine: Machine) -> None:
    machine.quota = "100000"
    machine.write()
    assert machine.pass_s(6, used=0.9).cpu == pytest.approx(0.9)
    machine.quota = "150000"
    seen = [machine.pass_s(0.5, used=0.9).cpu for _ in range(80)]
    assert seen[-1] == pytest.approx(0.6) and None in seen  # a new mean for the new limit


def test_a_container_that_goes_away(machine: Machine) -> None:
    machine.quota = "100000"
    machine.write()
    assert machine.pass_s(6, used=0.9, busy=0.25).cpu == pytest.approx(0.9)
    for each in ("cpu.max", "cpu.stat"):
        (machine.root / "cg" / each).unlink()
    write, machine.write = machine.write, lambda: None  # type: ignore[method-assign]
    machine.pass_s(6)
    machine.write = write  # type: ignore[method-assign]
    assert machine.meter.cpu_of() == "the machine's 2 CPUs"


def test_memory_of_the_container_else_of_the_machine(machine: Machine) -> None:
    machine.memory(0.75)
    assert machine.pass_s(0.5).memory == pytest.approx(0.75)
    assert machine.meter.memory_of() == "the machine's 4.1GB"
    for name, text in {"max": 100 * MB, "current": 70 * MB, "stat": f"inactive_file {20 * MB}"}.items():
        (machine.root / "cg" / f"memory.{name}").write_text(str(text))
    assert machine.pass_s(31).memory == pytest.approx(0.5)
    assert machine.meter.memory_of() == "the container's 105MB"


def test_one_busy_thread_is_not_load(machine: Machine) -> None:
    seen = machine.pass_s(12, busy=0.5, late_ms=5, pressed=0.0, t1=(1.0, 0.0), t2=(0.01, 0.0))
    assert (seen.cpu, seen.gil, seen.queue) == (0.5, None, None)
    assert not Judge(0.8, 0.9).look(seen, 0)


def test_two_threads_that_share_the_gil_are(machine: Machine) -> None:
    seen = machine.pass_s(12, busy=0.5, late_ms=6, t1=(0.5, 0.0), t2=(0.5, 0.0))
    assert (seen.cpu, seen.gil) == (0.5, 1.0)
    assert Judge(0.8, 0.9).look(seen, 0)


def test_threads_that_compute_without_the_gil_do_not_wait_for_it(machine: Machine) -> None:
    assert machine.pass_s(12, busy=1.0, late_ms=6, t1=(1.0, 0.0), t2=(1.0, 0.0)).gil is None


def test_a_gil_that_is_free_is_not_waited_for(machine: Machine) -> None:
    seen = machine.pass_s(12, busy=0.5, late_ms=0.1, pressed=0.5, t1=(0.5, 0.0), t2=(0.5, 0.0))
    assert seen.gil == 0.0


def test_waiting_for_a_cpu_needs_the_kernel_to_agree(machine: Machine) -> None:
    waiting = {"t1": (0.1, 0.9), "t2": (0.1, 0.9)}
    assert machine.pass_s(12, pressed=1.0, **waiting).queue == pytest.approx(0.9)  # type: ignore[arg-type]
    assert machine.pass_s(12, pressed=0.0, **waiting).queue is None  # type: ignore[arg-type]
    assert machine.pass_s(12, pressed=1.0, t1=(0.1, 0.2), t2=(0.0, 0.0)).queue is None


def test_throttling(machine: Machine) -> None:
    machine.quota = "100000"
    machine.write()
    assert machine.pass_s(6, used=0.5, throttled=0.9).throttled == pytest.approx(0.9)


def test_rubbish_everywhere_is_no_figure(machine: Machine) -> None:
    machine.pass_s(1)
    for name in ("stat", "meminfo", "pressure/cpu", "cg/cpu.stat", "cg/cpu.max"):
        (machine.root / name).write_bytes(b"cpu0 x\n\xff\0 some total=\n")
    for _ in range(20):
        machine.now_ns += SECOND_NS
        assert machine.meter.read(machine.now_ns) == load.NOTHING
    assert (machine.meter.cpu_of(), machine.meter.memory_of()) == ("", "")


def test_without_any_proc_there_is_no_figure(tmp_path: Path) -> None:
    meter = Meter(str(tmp_path / "nowhere"))
    for second in range(12):
        meter.woke(10**9)
        assert meter.read(second * SECOND_NS) == load.NOTHING
    assert meter.waited_ns() == 0
    assert load.outlook(0.8, 0.9, str(tmp_path / "nowhere")) == [
        "cpu: never pauses: this system tells no figure",
        "memory: never pauses: this system tells no figure",
    ]


def test_what_doctor_says(machine: Machine) -> None:
    machine.ticks = [50, 50]
    machine.write()
    lines = load.outlook(0.8, None, str(machine.root))
    cpus = len(host.Host().cpus())
    whose = f"the machine's {cpus} CPU{'' if cpus == 1 else 's'}"
    assert lines[1] == "memory: never pauses (load: off)"
    if cpus > 1:
        assert lines[0] == f"cpu: pauses above 80% of {whose}, goes on below 70%, mean of 5 s"
    said = load.outlook(None, 0.9, str(machine.root))[1]
    assert said == "memory: pauses above 90% of the machine's 4.1GB, goes on below 80%; 50% is in use now"


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="no /proc")
def test_the_figures_of_this_machine() -> None:
    machine = host.Host()
    ticks, memory = machine.cpu_ticks(machine.cpus()), machine.memory_bytes()
    assert ticks is not None and 0 < ticks[0] <= ticks[1]
    assert memory is not None and 0 < memory[0] < memory[1]


def test_psutil_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "platform", "darwin")
    monkeypatch.setattr(host, "text_of", lambda *_: None)
    machine: Any = host.Host()
    ticks, memory = machine.cpu_ticks(frozenset((0,))), machine.memory_bytes()
    assert 0 < ticks[0] <= ticks[1] and 0 < memory[0] < memory[1]
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    assert (machine.cpu_ticks(frozenset((0,))), machine.memory_bytes()) == (None, None)
