"""Every way in which a process ends: by its end, by os._exit, by signals with and without a handler, killed."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.servers.harness import Site

Make = Callable[[str], Site]

SERVE = """
import os, signal, sys, threading, time
def work(): return 1
def on_signal(number, frame):
    {handler}
{install}
for _ in range(50): work()
print("fifty", flush=True)
while True:
    time.sleep(0.02)
    {last}
"""
INSTALL = "signal.signal(signal.SIGTERM, on_signal)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGABRT])
def test_killed_by_a_signal(site: Make, number: int) -> None:
    """What was measured is there although nobody told us of the end: at most the last second is lost."""
    measured = site("__main__:work")
    (measured.folder / "program.py").write_text(SERVE.format(handler="pass", install="", last=""))
    with measured.started("program.py") as program:
        program.wait_until_said("fifty")
        measured.wait_for_calls({"__main__:work": 50})
        assert program.stop(number) == -number
    measured.check({"__main__:work": 50}, processes=1)


@pytest.mark.parametrize(
    ("handler", "status"),
    [("sys.exit(3)", 3), ("raise KeyboardInterrupt", -signal.SIGINT), ("work(); sys.exit()", 0)],
)
def test_sigterm_with_a_handler(site: Make, handler: str, status: int) -> None:
    """A handler that ends the program as it should: not one call is lost."""
    measured = site("__main__:work")
    (measured.folder / "program.py").write_text(SERVE.format(handler=handler, install=INSTALL, last=""))
    with measured.started("program.py") as program:
        program.wait_until_said("fifty")
        assert program.stop(signal.SIGTERM) == status
    measured.check({"__main__:work": 50 + ("work()" in handler)}, processes=1)


def test_os_exit(site: Make) -> None:
    measured = site("__main__:work")
    last = "os.path.exists('go') and os._exit(7)"
    (measured.folder / "program.py").write_text(SERVE.format(handler="pass", install="", last=last))
    with measured.started("program.py") as program:
        program.wait_until_said("fifty")
        measured.wait_for_calls({"__main__:work": 50})
        (measured.folder / "go").touch()
        assert program.process.wait(60) == 7
    measured.check({"__main__:work": 50}, processes=1)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_at_most_the_calls_that_were_made(site: Make, end: str) -> None:
    """An end without a word right after the calls: never more than were made, and a store that can be read."""
    measured = site("__main__:work")
    measured.run_text(f"import os\ndef work(): pass\nfor _ in range(500): work()\n{end}")
    assert measured.calls().get("__main__:work", 0) in (0, 500)


FORKS = """
import os, sys, threading, time
def work(): return 1
for _ in range(7): work()
children = []
for number in range(5):
    child = os.fork()
    if not child:
        work()
        {end}
    children.append(child)
for each in children:
    os.waitpid(each, 0)
for _ in range(3): work()
"""


def test_forked_by_hand(site: Make) -> None:
    """The parent's seven calls are not the children's."""
    measured = site("__main__:work")
    done = measured.run_text(FORKS.format(end="sys.exit()"), "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    measured.check({"__main__:work": 15}, processes=6)


def test_forked_and_replaced(site: Make) -> None:
    """A child that becomes another program takes nothing with it and leaves nothing behind."""
    measured = site("__main__:work")
    end = "os.execv(sys.executable, [sys.executable, '-c', 'pass'])"
    done = measured.run_text(FORKS.format(end=end), "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    found = measured.calls()["__main__:work"]
    assert 10 <= found <= 15


def test_forked_by_threads(site: Make) -> None:
    """Forks from several threads at once, while others call: no child hangs, none counts the parent's calls."""
    program = """
import os, threading
def work(): return 1
def child(): return 2
going = True
def busy():
    while going: work()
def forks():
    for _ in range(10):
        pid = os.fork()
        if not pid:
            for _ in range(20): child()
            from autoprof import stop
            stop()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
callers = [threading.Thread(target=busy) for _ in range(2)]
forkers = [threading.Thread(target=forks) for _ in range(3)]
for each in callers + forkers: each.start()
for each in forkers: each.join()
going = False
for each in callers: each.join()
"""
    measured = site("__main__:*")
    done = measured.run_text(program, "-W", "ignore")
    assert (done.returncode, done.stderr) == (0, "")
    measured.check({"__main__:child": 600}, processes=30)


DAEMONS = """
import threading, time
def work(): return 1
def rest(): time.sleep(3600)
def loop(started):
    started.set()
    while True: work(); time.sleep(0.001)
threads = []
for _ in range(10):
    started = threading.Event()
    threading.Thread(target=loop, args=(started,), daemon=True).start()
    started.wait()
threading.Thread(target=rest, daemon=True).start()
time.sleep(0.1)
"""


def test_daemon_threads_at_shutdown(site: Make) -> None:
    """Threads inside profiled calls while the interpreter goes away: no hang, no word, no crash."""
    measured = site("__main__:*")
    done = measured.run_text(DAEMONS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = measured.rows()
    assert rows["__main__:loop"]["calls"] == 10 and rows["__main__:rest"]["calls"] == 1
    assert rows["__main__:work"]["calls"] >= 10


def test_calls_at_exit(site: Make) -> None:
    """Handlers that the program has registered with atexit run before ours."""
    program = "import atexit\ndef work(): pass\natexit.register(work)\nwork()\n"
    measured = site("__main__:work")
    done = measured.run_text(program)
    assert (done.returncode, done.stderr) == (0, "")
    measured.check({"__main__:work": 2})


IMPORTING = """
import os, sys, threading, time
from importlib.machinery import PathFinder
importing, go_on = threading.Event(), threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name != "sqlite3":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            importing.set()
            {wait}
            load(module)
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Slow())
def work(): return 1
work()
assert importing.wait(60)
child = os.fork()
if not child:
    work()
    sys.exit(3)
go_on.set()
assert os.waitpid(child, 0)[1] == 3 << 8
"""


@pytest.mark.parametrize(("wait", "children"), [("time.sleep(0.5)", 1), ("go_on.wait(60)", 0)])
def test_forked_while_our_thread_imports(site: Make, wait: str, children: int) -> None:
    """The fork waits for an import of ours: in the child it would never end. When that takes too long, the child
    writes nothing, and ends as it should."""
    measured = site("__main__:work")
    done = measured.run_text(IMPORTING.format(wait=wait), "-W", "ignore")
    assert (done.returncode, done.stderr) == (0, "")
    measured.check({"__main__:work": 1 + children}, processes=1 + children)


SIGWAIT = """
import os, signal, time
def work(): return 1
work()
from autoprof import session
while not session.current.flusher._thread.running: time.sleep(0.01)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
for _ in range(20):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.02)  # nothing of ours takes it meanwhile
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
"""


def test_a_program_that_waits_for_its_signals(site: Make) -> None:
    """Signals that the program's threads block must not arrive in ours, where they would end the process."""
    measured = site("__main__:work")
    done = measured.run_text(SIGWAIT)
    assert (done.returncode, done.stderr) == (0, "")
    measured.check({"__main__:work": 1})
