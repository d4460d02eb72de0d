"""Start, replace, stop, status: everything wired, and everything taken off again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import flight, guard, session, testing
from autoprof import run as run_module
from autoprof.errors import PolicyErrors
from tests import mechanisms
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
SOURCE = "def f(): return 1\nclass A:\n    def m(self): return 2\n"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


def policy(tmp_path: Path, *rules: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"version": 1, "output": str(tmp_path / "out"), "rules": list(rules), **settings}


def test_stop_is_idempotent_and_status_is_empty_without_a_session() -> None:
    autoprof.stop()
    autoprof.stop()
    assert autoprof.status() == []


def test_status_has_the_fields_of_the_contract(load: Load) -> None:
    loaded = load("spliced_at_import", SOURCE)
    loaded.f()
    found = {each.target: each for each in autoprof.status()}
    one = found[f"{loaded.name}:f"]
    assert (one.rule, one.policy, one.strategy, one.state) == ("rule 1", "profile", "sample", "installed")
    assert (one.calls, one.profiled, one.skipped, one.discarded) == (1, 1, 0, 0)
    assert one.overhead_ns > 0 and one.gate_ns >= 0
    waiting = found[f"{loaded.name}:A.m"]
    assert waiting.state == "installed" and waiting.reason
    assert isinstance(one, autoprof.ProbeStatus)


def test_start_again_replaces_the_policy(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    loaded.f()
    rule = {"match": f"{loaded.name}:A.*", "policy": "profile", "rate": 1.0}
    autoprof.start(policy(tmp_path, rule))
    loaded.f()
    loaded.A().m()
    found = [(each.target, each.calls) for each in autoprof.status() if each.state != "removed"]
    assert found == [(f"{loaded.name}:A.m", 1)]


def test_a_wrong_policy_keeps_the_one_in_force(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    current = session.current
    with pytest.raises(PolicyErrors):
        autoprof.start(policy(tmp_path, {"match": "x:y", "policy": "profil"}))
    with pytest.raises(OSError):
        autoprof.start(str(tmp_path / "missing.yaml"))
    assert session.current is current
    loaded.f()
    assert loaded.probe("f").profiled == 1


def test_a_session_that_cannot_be_made_keeps_the_one_in_force(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("spliced_at_import", SOURCE)
    current = session.current

    def no_folder() -> tuple[str, str]:
        raise FileNotFoundError("the working folder was deleted")

    monkeypatch.setattr(run_module, "run_and_folder", no_folder)
    with pytest.raises(FileNotFoundError):
        autoprof.start(policy(tmp_path, rewrite="decorate"))
    assert session.current is current
    loaded.f()
    assert loaded.probe("f").profiled == 1


def test_start_with_a_path(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nenv: test\nservice: shop\noutput: {tmp_path}/out\nrules: []\n")
    with testing.capture("policy_loaded") as events:
        autoprof.start(path)
    try:
        assert events[0].target == "autoprof"
        metadata = events[0].metadata
        assert (metadata["env"], metadata["service"]) == ("test", "shop")
        assert metadata["path"] == str(path)
    finally:
        autoprof.stop()


def test_stop_lists_probes_as_removed_no_longer(load: Load) -> None:
    loaded = load("spliced_at_import", SOURCE)
    probe = loaded.probe("f")
    autoprof.stop()
    assert autoprof.status() == []
    assert probe.state == "removed" and probe.reason


def test_everything_is_stored_at_stop(load: Load, tmp_path: Path) -> None:
    from autoprof.store import StoreReader

    loaded = load("spliced_at_import", SOURCE)
    for _ in range(7):
        loaded.f()
    autoprof.stop()
    rows = StoreReader([str(tmp_path / "out")]).select().probes
    assert [(row.target, row.calls, row.profiled) for row in rows] == [(f"{loaded.name}:f", 7, 7)]


def test_nothing_is_written_until_something_was_measured(load: Load, tmp_path: Path) -> None:
    load("spliced_at_import", SOURCE)
    autoprof.stop()
    assert not (tmp_path / "out").exists()


def test_output_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autoprof.start(policy(tmp_path))
    try:
        assert session.current is not None
        assert session.current.output == str(tmp_path / "out")
        monkeypatch.setenv("AUTOPROF_OUTPUT", "elsewhere")
        assert session.current.output == os.path.join(session.current.start_folder, "elsewhere")
    finally:
        autoprof.stop()
        monkeypatch.undo()


def test_stop_inside_a_measured_call(load: Load) -> None:
    loaded = load("spliced_at_import", "def f(act): return act()\n")
    loaded.f(autoprof.stop)
    assert not flight.in_flight
    assert loaded.f(lambda: 3) == 3


def test_stop_while_a_generator_is_suspended(load: Load) -> None:
    loaded = load("spliced_at_import", "def g():\n    yield 1\n    yield 2\n")
    made = loaded.g()
    next(made)
    autoprof.stop()
    assert list(made) == [2]


def test_policies_not_built_yet_are_listed_and_harmless(tmp_path: Path) -> None:
    start = policy(tmp_path, {"match": "subject_kinds:f", "policy": "profile_memory"}, rewrite="splice")
    start["rules"].append({"match": "subject_kinds:f", "policy": "profile", "strategy": "cprof"})
    module = mechanisms.spliced_at_import(SOURCE, "subject_kinds", start)
    try:
        assert module.f() == 1
        for each in autoprof.status():
            assert each.state in ("disabled", "installed")
            assert each.state == "installed" or each.reason
    finally:
        autoprof.stop()
        del sys.modules["subject_kinds"]


def test_internal_errors_are_sent_as_a_signal(load: Load) -> None:
    load("spliced_at_import", SOURCE)
    with testing.capture("internal_error") as events:
        guard.report("a test", ValueError("broken"))
    guard.internal_errors.pop("a test")
    guard._logged.discard("a test")
    assert [(each.metadata["where"], each.metadata["kind"]) for each in events] == [("a test", "ValueError")]
    autoprof.stop()
    assert not guard.listeners


def test_probe_installed_is_sent(load: Load) -> None:
    with testing.capture("probe_installed") as events:
        loaded = load("spliced_at_import", SOURCE)
    assert [each.target for each in events] == [f"{loaded.name}:f", f"{loaded.name}:A.m"]


def test_no_threads_are_not_the_end(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """WebAssembly has none, and at interpreter shutdown there are none either."""
    import _thread

    from autoprof import background

    def refuse(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    for module in (background, _thread):
        if hasattr(module, "start_new_thread"):
            monkeypatch.setattr(module, "start_new_thread", refuse)
    loaded = load("spliced_at_import", SOURCE)
    assert [loaded.f() for _ in range(3)] == [1, 1, 1]
    assert loaded.probe("f").profiled == 3


def test_run_and_start_folder_are_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(run_module.RUN_VARIABLE, f"20260101T000000-1-abc@{tmp_path}")
    assert run_module.run_and_folder() == ("20260101T000000-1-abc", str(tmp_path))
    assert run_module.inherited_run()
    monkeypatch.setenv(run_module.RUN_VARIABLE, "garbage")
    run, folder = run_module.run_and_folder()
    assert run != "garbage" and folder == os.getcwd()
    monkeypatch.delenv(run_module.RUN_VARIABLE)
    assert run_module.run_and_folder()[0] != run_module.new_run()
    assert not run_module.inherited_run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parent_and_child_store_their_own_counts(load: Load, tmp_path: Path) -> None:
    from autoprof.store import StoreReader

    loaded = load("spliced_at_import", SOURCE)
    for _ in range(3):
        loaded.f()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(4):
                loaded.f()
            autoprof.stop()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    loaded.f()
    autoprof.stop()
    (row,) = StoreReader([str(tmp_path / "out")]).select().probes
    assert (row.calls, row.profiled, row.processes) == (8, 8, 2)


def test_a_program_that_ends_is_flushed(tmp_path: Path) -> None:
    from autoprof.store import StoreReader

    program = (
        "import autoprof\n"
        f"autoprof.start({policy(tmp_path)!r})\n"
        "@autoprof.profile(rate=1.0)\n"
        "def f(): pass\n"
        "for _ in range(5): f()\n"
    )
    done = mechanisms.python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (row,) = StoreReader([str(tmp_path / "out")]).select().probes
    assert (row.target, row.calls, row.profiled) == ("__main__:f", 5, 5)


def test_the_door_names_everything_and_loads_nothing() -> None:
    assert autoprof.__all__ == sorted(autoprof.__all__)
    for name in autoprof.__all__:
        assert getattr(autoprof, name) is not None
        assert name in dir(autoprof)
    with pytest.raises(AttributeError, match="nothing"):
        autoprof.nothing  # type: ignore[attr-defined]  # noqa: B018
    program = "import sys, autoprof; print(sorted(n for n in sys.modules if n.startswith('autoprof')))"
    done = mechanisms.python(program)
    assert done.stdout == "['autoprof']\n"
