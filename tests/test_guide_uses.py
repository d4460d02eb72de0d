"""The guide's best practices and use cases that no other test shows, by rule and by decorator, both back ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import guard, session, signals, testing
from autoprof.gate import gate_of
from autoprof.store import StoreReader
from tests import mechanisms
from tests.conftest import Environment

KINDS = {
    "profile": {"rate": 1.0},
    "profile_if_slow": {"threshold": "1us", "rate": 1.0},
    "profile_production": {"sample_rate": 1.0},
    "flame_graph": {"every": "off"},
    "profile_memory": {},
    "profile_calls": {"callees": False},
}
SOURCE = """
from time import perf_counter, sleep
DECORATOR
def work(seconds=0.002):
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass
    return "done"
def other(): pass
"""
Make = Callable[..., Any]


@pytest.fixture(params=["rule", "decorator"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["splice", "decorate"])
def make(request: pytest.FixtureRequest, form: str, tmp_path: Path) -> Iterator[Make]:
    """Give `make(kind, **options)`: a module whose `work` is measured by a rule or by a decorator."""
    backend = str(request.param)
    yield lambda kind, where="dev", source=SOURCE, **options: _made(
        kind, where, source, options, form, backend, tmp_path
    )
    autoprof.stop()
    sys.modules.pop("subject_uses", None)


def _made(
    kind: str, where: str, source: str, options: dict[str, Any], form: str, backend: str, folder: Path
) -> Any:
    rule = {"match": "subject_uses:work", "policy": kind, **options}
    keywords = {"async_" if key == "async" else key: value for key, value in options.items()}
    decorator = f"@__import__('autoprof').{kind}(**{keywords!r})"
    if form == "decorator":
        rule = {"match": "nothing.at.all:*", "policy": "profile"}
    off = {"reload": "off", "budget": "off", "load": "off"}
    autoprof.stop()
    autoprof.start({"version": 1, "env": where, "output": str(folder / "out"), "rewrite": backend, **off,
                    "rules": [rule]})  # fmt: skip
    source = source.replace("DECORATOR", decorator if form == "decorator" else "")
    module, path = mechanisms._fresh(source, "subject_uses")
    assert session.current is not None
    code: Any = compile(source, path, "exec", dont_inherit=True)
    if backend == "splice":
        code = session.current.installer.rewrite_code(code, module.__name__)
    else:
        code = session.current.installer.rewrite_source(source, path, module.__name__) or code
    return mechanisms._execute(module, code)


def probe(kind: str) -> Any:
    assert session.current is not None
    return session.current.installer.probes["subject_uses:work", kind]


@pytest.mark.parametrize("kind", KINDS)
def test_check_load_is_taken_from_both_forms(kind: str, make: Make) -> None:
    for wanted in (True, False):
        module = make(kind, check_load=wanted, **KINDS[kind])
        assert module.work() == "done"
        assert probe(kind).check_load is wanted and probe(kind).options["check_load"] is wanted


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_off_is_untouched(kind: str, make: Make) -> None:
    module = make(kind, enabled=False, **KINDS[kind])
    plain = mechanisms.plain(SOURCE.replace("DECORATOR", ""), "subject_uses_plain", {})
    try:
        assert gate_of(module.work.__code__) is None and not hasattr(module.work, "__wrapped__")
        assert module.work.__code__.co_code == plain.work.__code__.co_code
        module.work()
        assert all((each.state, each.calls) == ("disabled", 0) for each in autoprof.status())
    finally:
        del sys.modules["subject_uses_plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_is_in_every_event(kind: str, make: Make) -> None:
    module = make(kind, metadata={"team": "payments", "tier": 1}, **KINDS[kind])
    with testing.capture() as caught:
        module.work()
    sent = [each for each in caught if each.target == "subject_uses:work"]
    assert {"stop", "complete"} <= {each.name for each in sent}
    assert all(each.metadata["user"] == {"team": "payments", "tier": 1} for each in sent)


@pytest.mark.parametrize("kind", KINDS)
def test_no_metrics_from_any_policy(kind: str, make: Make, tmp_path: Path) -> None:
    module = make(kind, emit_metrics=False, **KINDS[kind])
    with testing.capture() as caught:
        module.work()
        assert probe(kind).profiled == 1
        autoprof.stop()
    assert not [each for each in caught if each.target == "subject_uses:work"]
    (row,) = StoreReader([str(tmp_path / "out")]).select().probes
    assert (row.policy, row.calls, row.profiled) == (kind, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [None, ["prod"], ["dev", "test"]], ids=str)
def test_the_environment_decides(kind: str, names: list[str] | None, make: Make) -> None:
    """Not written: dev and test for the expensive three, everywhere for the others."""
    cheap = kind in ("profile", "profile_production", "flame_graph")
    for env in ("dev", "test", "prod", "staging"):
        module = make(kind, where=env, **KINDS[kind], **({"env": names} if names else {}))
        assert module.work() == "done"
        counted = [each.calls for each in autoprof.status() if each.state == "installed"]
        wanted = env in names if names else cheap or env in ("dev", "test")
        assert counted == ([1] if wanted else [])


POLICY = """
version: 1
output: out
rules:
  - {match: "__main__:work", policy: profile, rate: 1.0, env: [prod], enabled: "${DEEP_PROFILE:-true}"}
"""
PROGRAM = """
def work(): return 1
work()
import autoprof
print([(each.calls, each.profiled) for each in autoprof.status()])
"""


def test_the_variable_of_the_environment_decides(environment: Environment, write: Any) -> None:
    folder = write({"policy.yaml": POLICY, "app.py": PROGRAM})

    def run(**env: str) -> str:
        done = environment.run("app.py", cwd=folder, env={"AUTOPROF_CONFIG": "policy.yaml", **env})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(AUTOPROF_ENV="prod") == "[(1, 1)]"
    assert run(AUTOPROF_ENV="test") == run() == "[]"
    assert run(AUTOPROF_ENV="prod", DEEP_PROFILE="false") == "[]"
    assert run(AUTOPROF_ENV="prod", AUTOPROF_ENABLED="0") == "[]"


@pytest.mark.parametrize("value", ["true", "false", None])
def test_a_variable_switches_it_on(
    value: str | None, make: Make, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("PROFILE", value)
    given: Any = "${PROFILE:-false}" if form == "rule" else value or "false"
    module = make("flame_graph", enabled=given)
    module.work()
    assert [each.calls for each in autoprof.status() if each.state == "installed"] == [1] * (value == "true")


# handlers


def test_one_handler_for_several_events(make: Make) -> None:
    got: list[tuple[str, str, int]] = []

    def handle(sender: str, *, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        got.append((metadata["event"], sender, measurements["duration_ns"]))

    names = ("stop", "slow_operation", "production")
    signals.connect(handle, *names)
    try:
        for kind, wanted in (
            ("profile_if_slow", {"stop", "slow_operation"}),
            ("profile_production", {"stop", "production"}),
        ):
            module = make(kind, **KINDS[kind])
            module.work()
            assert {name for name, _, _ in got} == wanted
            assert {sender for _, sender, _ in got} == {"subject_uses:work"}
            assert all(duration_ns >= 2_000_000 for _, _, duration_ns in got)
            got.clear()
    finally:
        signals.disconnect(handle, *names)
    module.work()
    assert not got


def test_an_alert_of_slow_calls(make: Make) -> None:
    alerts: list[tuple[str, int]] = []

    def alert(sender: str, *, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        alerts.append((metadata["function"], measurements["duration_ns"]))

    module = make("profile_if_slow", threshold="20ms")
    with signals.slow_operation.connected_to(alert):
        module.work(0.0)
        module.work(0.025)
    (found,) = alerts
    assert found[0] == "work" and found[1] >= 25_000_000


# use cases


BOTTLENECK = """
from time import perf_counter
def spin(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass
def culprit(): spin(0.018)
def innocent(): spin(0.002)
DECORATOR
def work():
    innocent()
    culprit()
    return "done"
"""


def test_the_bottleneck_is_found(make: Make, tmp_path: Path) -> None:
    """Ten per cent of the calls: the function that takes nine tenths of the time has most of the stacks."""
    module = make("profile", source=BOTTLENECK, strategy="sample", rate=0.1, duration=60_000, interval="1ms")
    counted = probe("profile")
    deadline = time.monotonic() + 60  # a loaded machine looks seldom
    while (counted.calls < 100 or counted.samples < 20) and time.monotonic() < deadline:
        module.work()
    assert 2 <= counted.profiled < 0.4 * counted.calls
    autoprof.stop()
    weights = {"culprit": 0, "innocent": 0}
    for stacks in StoreReader([str(tmp_path / "out")]).select().stacks.values():
        for stack, (samples, _) in stacks.items():
            for name in weights:
                weights[name] += samples * any(name in str(frame) for frame in stack)
    assert weights["culprit"] > 2 * weights["innocent"], (
        StoreReader([str(tmp_path / "out")]).select().stacks,
        guard.internal_errors,
        counted.samples,
    )


def test_a_report_is_drawn(make: Make, tmp_path: Path) -> None:
    module = make("flame_graph", output="weekly_report.svg")
    module.work(0.05)
    drawn = (tmp_path / "out" / "weekly_report.svg").read_text("utf-8")
    assert "<svg" in drawn and "work" in drawn
