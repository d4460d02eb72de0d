"""A policy that has met nothing it names: little is loaded, and the first module that a rule names is not missed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Environment

POLICY = """\
version: 1
output: out
budget: off
load: off
reload: {reload}
rules:
  - {{match: ['wares:*', 'goods:*', '{also}'], policy: profile, rate: 1.0}}
"""
SHOW = """
import sys
def show():
    import autoprof
    from autoprof import session
    print(sorted((each.target, each.calls, each.profiled) for each in autoprof.status()), session.current is not None)
def hooks():
    return [each for each in sys.meta_path if type(each).__module__ == "autoprof.importhook"]
"""
Run = Callable[..., str]


@pytest.fixture
def run(environment: Environment, tmp_path: Path) -> Run:
    """Run a program beside the modules `wares` and `goods`, under the policy; return what it prints."""
    (tmp_path / "wares.py").write_text("def small():\n    return 1\nsmall()\n")
    (tmp_path / "goods.py").write_text("def large():\n    return 1\nlarge()\n")
    (tmp_path / "show.py").write_text(SHOW)

    def one(program: str, *options: str, reload: str = "off", also: str = "heapq:nsmallest") -> str:
        (tmp_path / "policy.yaml").write_text(POLICY.format(reload=reload, also=also))
        (tmp_path / "app.py").write_text("from show import *\n" + program)
        done = environment.run(*options, "app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return one


def test_nothing_is_made_until_a_rule_meets_its_module(run: Run) -> None:
    program = """
assert not {"autoprof.wiring", "autoprof.sampler", "autoprof.installer", "threading"} & set(sys.modules)
before = hooks()
import json, argparse
show()
import wares
wares.small()
show()
assert len(before) == 1 and hooks() == before
import goods
show()
"""
    assert run(program).splitlines() == [
        "[] False",
        "[('wares:small', 2, 2)] True",
        "[('goods:large', 1, 1), ('wares:small', 2, 2)] True",
    ]


def test_stop_takes_the_hook_off(run: Run) -> None:
    assert run("import autoprof\nautoprof.stop()\nassert hooks() == []\nimport wares\nshow()") == "[] False\n"


def test_start_takes_its_place(run: Run) -> None:
    program = """
import autoprof
autoprof.start({"version": 1, "rules": [{"match": "goods:*", "policy": "profile", "rate": 1.0}]})
assert len(hooks()) == 1
import wares, goods
show()
"""
    assert run(program) == "[('goods:large', 1, 1)] True\n"


def test_a_decorator_has_the_files_policy_put_in_force(run: Run) -> None:
    program = """
import autoprof
@autoprof.profile(rate=1.0)
def own():
    return 1
own()
import wares
show()
"""
    assert run(program) == "[('__main__:own', 1, 1), ('wares:small', 1, 1)] True\n"


def test_force_of_what_is_not_imported_yet(run: Run) -> None:
    program = """
import autoprof
autoprof.testing.force("wares:small")
import wares
show()
"""
    assert run(program) == "[('wares:small', 1, 1)] True\n"


def test_a_module_that_the_session_itself_imports(run: Run) -> None:
    """`heapq` comes with the session's own imports, inside the import of `heapq` by the application."""
    program = """
for name in ("heapq", "_heapq"):
    sys.modules.pop(name, None)
import heapq
assert heapq.nsmallest(1, [3, 2]) == [2]
show()
"""
    assert run(program) == "[('heapq:nsmallest', 1, 1)] True\n"


def test_a_module_that_starting_another_session_imports(run: Run) -> None:
    program = """
from autoprof import guard
assert not {"autoprof.wiring", "weakref"} & set(sys.modules)
import autoprof
autoprof.start({"version": 1, "rules": [{"match": "goods:*", "policy": "profile", "rate": 1.0}]})
assert "weakref" in sys.modules and not guard.internal_errors, guard.internal_errors
import goods
show()
"""
    assert run(program, also="weakref:*") == "[('goods:large', 1, 1)] True\n"


def test_threads_that_meet_two_modules_at_once(run: Run) -> None:
    program = """
import threading
barrier = threading.Barrier(2)
def load(name):
    barrier.wait()
    __import__(name)
threads = [threading.Thread(target=load, args=(each,)) for each in ("wares", "goods")]
for each in threads: each.start()
for each in threads: each.join()
import autoprof
print(sorted((each.target, each.calls, each.profiled) for each in autoprof.status()))
"""
    for _ in range(5):
        assert run(program) == "[('goods:large', 1, 1), ('wares:small', 1, 1)]\n"


def test_results_go_where_the_program_was_started(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    run("import os\nsys.path.insert(0, os.getcwd())\nos.chdir('elsewhere')\nimport wares")
    assert (tmp_path / "out").is_dir() and not list((tmp_path / "elsewhere").iterdir())


def test_a_failure_leaves_the_program_alone_and_the_next_module_tries_again(run: Run) -> None:
    program = """
import logging
logging.getLogger("autoprof").addHandler(logging.NullHandler())
logging.getLogger("autoprof").propagate = False
sys.modules["autoprof.wiring"] = None
import wares
assert wares.small() == 1 and len(hooks()) == 1
show()
del sys.modules["autoprof.wiring"]
import goods
assert wares.small() == 1 and len(hooks()) == 1
show()
"""
    assert run(program).splitlines() == ["[] False", "[('goods:large', 1, 1), ('wares:small', 1, 1)] True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_meets_it_first(run: Run) -> None:
    program = """
import os
child = os.fork()
import wares
if not child:
    wares.small()
show()
sys.stdout.flush()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert sorted(run(program, "-W", "error", reload="50ms").splitlines()) == [
        "[('wares:small', 1, 1)] True",
        "[('wares:small', 2, 2)] True",
    ]


def test_an_edit_that_still_meets_nothing_and_one_that_does(run: Run) -> None:
    program = """
import json, time
from autoprof import signals
heard = []
def hear(sender, **fields):
    heard.append(fields["measurements"]["rules"])
signals.policy_loaded.connect(hear)
def until(holds):
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, heard
        time.sleep(0.02)
text = open("policy.yaml").read()
open("policy.yaml", "w").write(text + "  - {match: 'nowhere:*', policy: profile}\\n")
until(lambda: heard == [2])
show()
assert len(hooks()) == 1
open("policy.yaml", "w").write(text + "  - {match: 'json:dumps', policy: profile, rate: 1.0}\\n" * 2)
until(lambda: heard == [2, 3])
json.dumps(1)
import wares
show()
assert len(hooks()) == 1
"""
    assert run(program, reload="20ms").splitlines() == [
        "[] False",
        "[('json:dumps', 1, 1), ('wares:small', 1, 1)] True",
    ]


def test_no_rule_no_hook(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\nreload: off\nrules: []\n")
    program = SHOW + "show()\nprint(hooks())\n"
    done = environment.run("-c", program, cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] False\n[]\n", "")
