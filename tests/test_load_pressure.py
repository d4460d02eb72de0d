"""Load is really made: children burn processor time until the program pauses, and end until it resumes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import pressure


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs /proc")
def test_children_that_burn_every_core(tmp_path: Path) -> None:
    # Whether it resumes depends on what else the machine does: where it stays busy, staying paused is right.
    pressure.run(
        tmp_path,
        '{"cpu": "80%", "memory": "off"}',
        """
        cpus = len(os.sched_getaffinity(0))
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cpus)]
        try:
            assert wait(lambda: told), "not paused"
        finally:
            for each in burners:
                each.kill()
                each.wait()
        assert told[0][0] == "paused" and "is in use (mean of 5 s), above load: cpu 80%" in told[0][1], told
        profiled, calls = status().profiled, status().calls
        for _ in range(100):
            work()
        if status().state == "paused":
            assert (status().profiled, status().calls) == (profiled, calls + 100)
        meter, least = load.Meter(), []
        def quiet():
            reading = meter.read(time.perf_counter_ns())
            if reading.cpu is not None:
                least.append(reading.cpu)
            return len(told) > 1
        resumed = wait(quiet, 60)
        assert resumed or max(least) > 0.6, (told, least)
        if resumed:
            assert told[1][0] == "resumed" and told[1][1].startswith("load is over: cpu"), told
            assert status().state in ("installed", "paused")
        """,
    )


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs /proc")
def test_a_container_whose_children_use_up_its_quota(tmp_path: Path) -> None:
    """The children's real processor time stands in a made-up group: nothing else on the machine counts."""
    pressure.run(
        tmp_path,
        '{"cpu": "80%", "memory": "off"}',
        """
        import psutil
        proc = tempfile.mkdtemp()
        group = proc + "/cg/"
        os.makedirs(group)
        os.mkdir(proc + "/self")
        def write(path, text):
            with open(path + ".new", "w") as file:
                file.write(text)
            os.replace(path + ".new", path)
        write(proc + "/self/cgroup", "0::/")
        write(proc + "/self/mountinfo", f"1 1 0:1 / {proc}/cg rw - cgroup2 none rw")
        write(group + "cpu.max", "10000 100000")
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        used = {}
        def usage():
            for each in burners:
                if each.poll() is None:
                    times = psutil.Process(each.pid).cpu_times()
                    used[each.pid] = times.user + times.system
            write(group + "cpu.stat", f"usage_usec {int(sum(used.values()) * 1e6)}")
        usage()
        governor.prepare()
        governor.meter = load.Meter(proc)
        try:
            assert wait(lambda: usage() or told), "not paused"
            assert status().state == "paused" and status().reason == told[0][1]
            assert "of the container's 0.1 CPUs is in use" in told[0][1], told
            profiled, calls = status().profiled, status().calls
            for _ in range(100):
                work()
            assert (status().profiled, status().calls) == (profiled, calls + 100)
        finally:
            for each in burners:
                each.kill()
                each.wait()
        assert wait(lambda: usage() or len(told) > 1), "not resumed"
        assert told[1][0] == "resumed" and told[1][1].startswith("load is over: cpu"), told
        work()
        assert status().profiled > profiled and status().state == "installed"
        """,
    )
