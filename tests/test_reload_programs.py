"""Programs of which the policy file is edited while they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, Environment

WEBASSEMBLY = sys.platform == "emscripten"
APPLICATION = """
import json, os, sys, threading, time
def f(): return 1
def g(): return 2
made = {"f": 0, "g": 0}
print(os.getpid(), flush=True)
for line in sys.stdin:
    command = line.split()
    if command[0] == "call":
        for _ in range(int(command[1])):
            f(); g()
            made["f"] += 1; made["g"] += 1
    import autoprof
    from autoprof import session
    found = {each.target: [each.state, each.calls, each.profiled] for each in autoprof.status()}
    hooks = [type(each).__name__ for each in sys.meta_path if "autoprof" in type(each).__module__]
    gated = [name for name in ("f", "g") if len(globals()[name].__code__.co_consts) > 3 or
             any("Gate" in type(each).__name__ for each in globals()[name].__code__.co_consts)]
    fds = []
    for each in os.listdir("/proc/self/fd"):
        try:
            fds.append(os.readlink(f"/proc/self/fd/{each}"))
        except OSError:
            pass  # another thread has closed it
    tasks = len(os.listdir("/proc/self/task"))
    print(json.dumps({"status": found, "hooks": hooks, "gated": gated, "tasks": tasks,
                      "files": [each for each in fds if "autoprof" in each or ".yaml" in each],
                      "threads": threading.active_count()}), flush=True)
"""


class Application:
    """A program of which the policy file is edited while it runs."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "policy.yaml"
        (folder / "app.py").write_text(APPLICATION)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOPROF_", "PYTHON", "COV"))}
        self.process = subprocess.Popen(
            [environment.python, "app.py"],
            cwd=folder,
            env={**clean, "AUTOPROF_CONFIG": "policy.yaml"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def ask(self, command: str = "status") -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr is not None and self.process.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.ask()
            if holds(found):
                return found
            time.sleep(0.05)
        raise AssertionError(found)

    def end(self) -> str:
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        errors = self.process.stderr.read()
        assert self.process.wait(60) == 0
        return errors


def text(*rules: str, settings: str = "reload: 100ms") -> str:
    lines = [f"version: 1\nbudget: off\nload: off\n{settings}\nrules:" + ("" if rules else " []")]
    return "\n".join([*lines, *(f"  - {each}" for each in rules)]) + "\n"


@pytest.fixture
def application(environment: Environment, tmp_path: Path) -> Iterator[Callable[[str | None], Application]]:
    made: list[Application] = []

    def start(content: str | None) -> Application:
        if content is not None:
            (tmp_path / "policy.yaml").write_text(content)
        made.append(Application(environment, tmp_path))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[["str | None"], Application]
EVERY = "{match: '__main__:%s', policy: profile, rate: 1.0}"
needs_processes = pytest.mark.skipif(WEBASSEMBLY, reason="no processes in WebAssembly")


@needs_processes
def test_edits_of_a_running_program(application: Start) -> None:
    running = application(text(EVERY % "f"))
    assert running.ask("call 10")["status"]["__main__:f"] == ["installed", 10, 10]
    running.path.write_text(text(EVERY % "[fg]"))
    running.until(lambda found: "__main__:g" in found["status"])
    assert running.ask("call 5")["status"] == {
        "__main__:f": ["installed", 15, 15],
        "__main__:g": ["installed", 5, 5],
    }
    running.path.write_text(text("{match: '__main__:g', policy: profile, rate: 0}"))
    found = running.until(lambda found: found["status"]["__main__:f"][0] == "removed")
    assert found["gated"] == ["g"]
    assert running.ask("call 5")["status"]["__main__:g"] == ["installed", 10, 5]
    assert running.end() == ""


@needs_processes
def test_a_bad_edit_says_where_and_changes_nothing(application: Start) -> None:
    running = application(text(EVERY % "f"))
    running.ask("call 10")
    running.path.write_text(text(EVERY % "f", "{match: '__main__:g', polcy: profile}"))
    time.sleep(1)
    running.path.unlink()
    time.sleep(1)
    assert running.ask("call 5")["status"] == {"__main__:f": ["installed", 15, 15]}
    running.path.write_text(text(EVERY % "g"))
    running.until(lambda found: "__main__:g" in found["status"])
    errors = running.end()
    assert errors.count("the policy in force stays") == 2 and "policy.yaml:7:" in errors, errors
    assert "did you mean 'policy'" in errors or "did you mean policy" in errors, errors


@needs_processes
@pytest.mark.parametrize("content", [None, "version: 1\nrules: [{match: x, polic: y}]\n"])
def test_a_file_that_was_missing_or_wrong_at_the_start(application: Start, content: str | None) -> None:
    running = application(content)
    assert running.ask("call 3")["status"] == {}
    running.path.write_text(text(EVERY % "f"))
    running.until(lambda found: "__main__:f" in found["status"])
    assert running.ask("call 2")["status"]["__main__:f"] == ["installed", 2, 2]
    assert running.end().count("autoprof stays off") == 1


@needs_processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc is Linux's")
def test_no_rules_is_a_kill_switch(application: Start) -> None:
    running = application(text(EVERY % "*"))
    assert running.ask("call 10")["gated"] == ["f", "g"]
    running.path.write_text(text())
    found = running.until(lambda found: not found["gated"] and found["tasks"] <= 2)
    assert found["hooks"] == [] and found["files"] == [], found
    running.path.write_text(text(settings="reload: off"))
    running.until(lambda found: found["tasks"] == 1)
    assert running.end() == ""


@needs_processes
def test_ten_edits_a_second_end_with_the_last(application: Start) -> None:
    running = application(text(EVERY % "f"))
    for number in range(30):
        running.path.write_text(text(EVERY % ("f" if number % 2 else "g")))
        time.sleep(0.1)
        running.ask("call 10")
    running.path.write_text(text(EVERY % "[fg]"))
    running.until(
        lambda found: [found["status"].get(f"__main__:{each}", [""])[0] for each in "fg"] == ["installed"] * 2
    )
    before = running.ask()["status"]
    after = running.ask("call 7")["status"]
    assert {name: after[name][1] - before[name][1] for name in after} == {"__main__:f": 7, "__main__:g": 7}
    assert running.end() == ""


@needs_processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_looks_for_itself(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(text(EVERY % "f"))
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            import os, time, autoprof
            def f(): return 1
            f()
            child = os.fork()
            if child == 0:
                with open("new", "w") as file:
                    file.write(open("policy.yaml").read().replace("__main__:f", "__main__:nothing"))
                os.replace("new", "policy.yaml")
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    if [each.state for each in autoprof.status()] == ["removed"]:
                        os._exit(7)
                    time.sleep(0.05)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                f()
                if [each.state for each in autoprof.status()] == ["removed"]:
                    print("the parent too")
                    break
                time.sleep(0.05)
            """
        )
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"}, timeout=150)
    assert (done.stdout, done.stderr) == ("7\nthe parent too\n", "")
    assert REPOSITORY
