"""Edits of the policy file, of every kind, reach a process that runs: seen from outside only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import schema

pytestmark = pytest.mark.skipif(
    "reload" in schema.LATER_KEYS, reason="`reload` is not active in this version (schema.LATER_KEYS)"
)

MODULE = "def f(): return 1\ndef g(): return 2\ndef make():\n    def inner(): return 3\n    return inner\n"
APP = """
import json, logging, os, sys
import shop
warnings = []
class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            warnings.append(record.getMessage())
logging.getLogger("autoprof").addHandler(Keep())
inner = shop.make()
registry = {"f": shop.f, "g": shop.g, "inner": inner}
codes = {name: each.__code__ for name, each in registry.items()}
from autoprof import session, signals
sent = []
def keep(name):
    def receive(sender, **fields):
        sent.append(name)
    signal = getattr(signals, name)
    signal.connect(receive, weak=False)
for name in ("policy_loaded", "policy_rejected"):
    keep(name)
os.environ["AUTOPROF_CONFIG"] = sys.argv[1]  # only now: an installed autoprof would start before `codes`
session.start_from_environment()
def links():
    for each in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink("/proc/self/fd/" + each)
        except OSError:
            pass
while line := sys.stdin.readline():
    if line.startswith("fork") and (child := os.fork()):
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if line.startswith("stop"):
        session.stop()
    for each in registry.values():
        each()
    print(json.dumps({
        "calls": {each.target.split(":")[1]: each.calls for each in session.status() if each.state != "removed"},
        "original": sorted(name for name, each in registry.items() if each.__code__ is codes[name]),
        "threads": len(os.listdir("/proc/self/task")),
        "finders": [str(it) for it in sys.meta_path + sys.path_hooks if "autoprof" in str(it)],
        "files": [it for it in links() if "policy.yaml" in it or "/out/" in it],
        "warnings": warnings, "sent": sent,
    }), flush=True)
"""
Ask = Callable[..., dict[str, Any]]
ALL = ["f", "g", "inner"]


def text(tmp_path: Path, *matches: str, rate: str = "1.0") -> str:
    rules = "".join(f"\n  - {{match: '{each}', policy: profile, rate: {rate}}}" for each in matches)
    return f"version: 1\noutput: {tmp_path}/out\nreload: 50ms\nload: off\nrules:{rules or ' []'}\n"


@pytest.fixture
def ask(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Ask]]:
    """Start the application under a policy's path; what comes back calls everything once and asks it."""
    running: list[subprocess.Popen[str]] = []

    def begin(path: Path) -> Ask:
        (tmp_path / "shop.py").write_text(MODULE)
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
        process = subprocess.Popen(
            [sys.executable, "-c", APP, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        running.append(process)
        assert process.stdin is not None and process.stdout is not None
        into, out = process.stdin, process.stdout

        def one(command: str = "?") -> dict[str, Any]:
            into.write(f"{command}\n")
            into.flush()
            answer: dict[str, Any] = json.loads(out.readline())
            return answer

        return one

    yield begin
    for each in running:
        each.communicate(timeout=60)
        assert each.returncode == 0


def until(ask: Ask, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline_s = time.monotonic() + 60
    while not holds(answer := ask()):
        assert time.monotonic() < deadline_s, answer
        time.sleep(0.02)
    return answer


def write(path: Path, content: str) -> None:
    path.write_text(content)


def rename_over(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    os.replace(new, path)


def delete_and_write(path: Path, content: str) -> None:
    path.unlink()
    time.sleep(0.2)
    path.write_text(content)


def same_time_in_place(path: Path, content: str) -> None:
    found = path.stat()
    path.write_text(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def same_time(path: Path, content: str) -> None:
    found = path.stat()
    new = path.with_suffix(".new")
    new.write_text(content)
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.replace(new, path)


@pytest.mark.parametrize("edit", [write, rename_over, delete_and_write, same_time, same_time_in_place])
def test_an_edit_moves_the_probe(
    tmp_path: Path, ask: Callable[[Path], Ask], edit: Callable[[Path, str], None]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    assert until(app, lambda it: "f" in it["calls"])["original"] == ["g", "inner"]
    # One ordinary edit first: only then does the watcher surely know the file that the edit under test replaces.
    write(path, text(tmp_path, "shop:make.<locals>.inner"))
    until(app, lambda it: it["original"] == ["f", "g"])
    write(path, text(tmp_path, "shop:f"))
    until(app, lambda it: it["original"] == ["g", "inner"])
    edit(path, text(tmp_path, "shop:g"))
    assert until(app, lambda it: "g" in it["calls"])["original"] == ["f", "inner"]


def test_a_configmap_swap(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    for name, match in (("..1", "shop:f"), ("..2", "shop:make.<locals>.inner")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text(tmp_path, match))
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "policy.yaml"
    path.symlink_to("..data/policy.yaml")
    app = ask(path)
    until(app, lambda it: "f" in it["calls"])
    (tmp_path / "..tmp").symlink_to("..2")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert until(app, lambda it: "make.<locals>.inner" in it["calls"])["original"] == ["f", "g"]


def test_a_bad_edit_changes_nothing_and_is_told_once(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    before = until(app, lambda it: "f" in it["calls"])
    path.write_text(text(tmp_path, "shop:g").replace("profile", "profil"))
    after = until(app, lambda it: "policy_rejected" in it["sent"])
    assert after["original"] == ["g", "inner"] and after["calls"]["f"] > before["calls"]["f"]
    assert [f"{path}:6:" in each for each in after["warnings"]] == [True]
    path.write_text(text(tmp_path, "shop:g"))
    last = until(app, lambda it: "g" in it["calls"] and len(it["sent"]) > 2)  # told once it is in force
    assert last["sent"] == ["policy_loaded", "policy_rejected", "policy_loaded"]


def test_no_rules_gives_every_code_back_and_a_later_edit_brings_them_again(
    tmp_path: Path, ask: Callable[[Path], Ask]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:*"))
    app = ask(path)
    until(app, lambda it: not it["original"])
    path.write_text(text(tmp_path))
    until(app, lambda it: it["original"] == ALL)
    path.write_text(text(tmp_path, "shop:f"))
    until(app, lambda it: it["original"] == ["g", "inner"])


def test_counts_are_exact_over_a_retuning(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    asked = 0

    def counted() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return app()

    until(counted, lambda it: "f" in it["calls"])
    path.write_text(text(tmp_path, "shop:f", rate="1.0, duration: 20s"))
    answer = until(counted, lambda it: it["sent"].count("policy_loaded") == 2)
    assert answer["calls"]["f"] == asked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_looks_for_itself(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    until(app, lambda it: "f" in it["calls"])
    app("fork")
    path.write_text(text(tmp_path, "shop:g"))
    assert until(app, lambda it: "g" in it["calls"])["original"] == ["f", "inner"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads and files are counted in /proc")
def test_nothing_of_ours_stays_without_rules_but_the_thread_that_looks(
    tmp_path: Path, ask: Callable[[Path], Ask]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:*"))
    app = ask(path)
    until(app, lambda it: not it["original"] and it["finders"])
    path.write_text(text(tmp_path))
    until(
        app, lambda it: (it["original"], it["finders"], it["files"]) == (ALL, [], []) and it["threads"] <= 2
    )
    stopped = app("stop")
    assert (stopped["original"], stopped["finders"], stopped["files"]) == (ALL, [], [])
    until(app, lambda it: it["threads"] == 1)


def test_ten_edits_a_second_end_with_the_last(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    until(app, lambda it: "f" in it["calls"])
    for each in range(20):
        write(path, text(tmp_path, ("shop:f", "shop:make.<locals>.inner")[each % 2]))
        app()
        time.sleep(0.1)
    path.write_text(text(tmp_path, "shop:g"))
    assert until(app, lambda it: "g" in it["calls"])["original"] == ["f", "inner"]


def test_a_half_written_file_keeps_the_policy_until_it_is_whole(
    tmp_path: Path, ask: Callable[[Path], Ask]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text(tmp_path, "shop:f"))
    app = ask(path)
    until(app, lambda it: "f" in it["calls"])
    whole = text(tmp_path, "shop:g")
    path.write_text(whole[: whole.index("profile") - 2])
    assert until(app, lambda it: "policy_rejected" in it["sent"])["original"] == ["g", "inner"]
    path.write_text(whole)
    assert until(app, lambda it: "g" in it["calls"])["original"] == ["f", "inner"]


def test_a_file_that_is_missing_at_the_start(tmp_path: Path, ask: Callable[[Path], Ask]) -> None:
    path = tmp_path / "policy.yaml"
    app = ask(path)
    assert app()["original"] == ALL
    path.write_text(text(tmp_path, "shop:f"))
    answer = until(app, lambda it: "f" in it["calls"])
    assert len(answer["warnings"]) == 1 and "policy.yaml" in answer["warnings"][0]
