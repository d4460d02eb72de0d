"""gevent and eventlet: monkey-patched before and after autoprof; greenlets are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.harness import Site, needs

Make = Callable[[str], Site]

PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}
ROWS = ["gevent", "eventlet"]

# Greenlets that wait inside the same functions at the same time, each with frames of its own below.
PROGRAM = """
{patch}
import sys, threading, time
{late}

def handle(number):
    return left(number) if number % 2 else right(number)

def left(number):
    time.sleep(0.05)
    return number

def right(number):
    time.sleep(0.05)
    return number

def request(number):
    assert handle(number) == number

def round():
    threads = [threading.Thread(target=request, args=(number,)) for number in range(20)]
    for each in threads: each.start()
    for each in threads: each.join()

for _ in range(5): round()

from autoprof import background, flight, primitives, session
assert type(primitives.start_new_thread) is type(primitives.get_ident) is type(len)
assert session.current.flusher._thread is None or session.current.flusher._thread._native_id != threading.get_native_id()
print(flight.in_flight, flight.greenlets, [p.target for p in session.current.installer.probes.values() if p.busy])
"""


def stacks(measured: Site) -> list[list[str]]:
    """Return the functions of every stack that was seen, root first."""
    done = measured.environment.run("-m", "autoprof", "report", measured.output, "--format", "collapsed")
    assert done.returncode == 0, done.stderr
    return [line.rpartition(" ")[0].split(";") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("late", [False, True], ids=["autoprof first", "patched first"])
def test_a_patched_program(site: Make, name: str, late: bool) -> None:
    """All calls are measured though they overlap on one thread, and no stack mixes two of them."""
    needs(name)
    measured = site("__main__:*")
    if late:
        # As with decorators in the code: autoprof is imported when everything is patched.
        policy = str(measured.folder / "policy.yaml")
        start = f"import autoprof; assert 'autoprof.session' not in sys.modules; autoprof.start({policy!r})"
        work = measured.folder / "work.py"
        text = PROGRAM.format(patch=PATCHES[name], late="")
        work.write_text(text)
        policy_file = measured.folder / "policy.yaml"
        policy_file.write_text(policy_file.read_text().replace("__main__:*", "work:*"))
        program = f"{PATCHES[name]}\nimport sys\n{start}\nimport work\n"
        done = measured.run_text(program, AUTOPROF_CONFIG="")
    else:
        done = measured.run_text(PROGRAM.format(patch=PATCHES[name], late=""))
    assert (done.returncode, done.stdout, done.stderr) == (0, "{} {} []\n", "")
    module = "work" if late else "__main__"
    wanted = {"handle": 100, "left": 50, "right": 50, "request": 100, "round": 5}
    rows = measured.check({f"{module}:{each}": count for each, count in wanted.items()})
    for each, count in wanted.items():
        assert rows[f"{module}:{each}"]["profiled"] == count, rows[f"{module}:{each}"]
    assert rows[f"{module}:left"]["samples"] and rows[f"{module}:right"]["samples"]
    for stack in stacks(measured):
        ours = [each for each in stack if f"{module}:" in each]
        assert not (any(":left" in each for each in ours) and any(":right" in each for each in ours)), stack
