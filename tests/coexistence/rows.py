"""The table: each tool, how it is started, and what is compared."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

from . import debugging
from .tools import environment

APPLICATION = Path(__file__).resolve().parent / "application"
TIME_LIMIT_S = 120
DAY = {
    "price": 8, "fallible": 2, "stream": 1, "Basket.__init__": 1, "Basket.total": 1, "fetch": 1, "compute": 1, "day": 1,
}  # fmt: skip
"""How often one day of the application calls each of its functions, counted by hand."""
POLICY = """version: 1
budget: off
load: off
rules:
  - {match: ["shop:*", "shop.*:*"], policy: profile, rate: 1.0, interval: 2ms}
"""

Read = Callable[[Path, str, Path], Any]


class Difference(AssertionError):
    """The other tool, or autoprof, does not report what it has to."""


def _as_printed(folder: Path, output: str, _: Path) -> Any:
    return output.strip().splitlines()


def _last_line(folder: Path, output: str, _: Path) -> Any:
    return json.loads(output.strip().splitlines()[-1])


def _coverage(folder: Path, output: str, venv: Path) -> Any:
    command = [venv / "bin" / "python", "-m", "coverage", "json", "-q", "-o", "coverage.json"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, timeout=TIME_LIMIT_S)
    files = json.loads((folder / "coverage.json").read_text("utf-8"))["files"]
    keys = ("executed_lines", "missing_lines", "executed_branches", "missing_branches")
    found = {name: {key: each.get(key) for key in keys} for name, each in files.items()}
    assert any(each["missing_lines"] for each in found.values()), found
    return [found, output]


def _spans(folder: Path, output: str, _: Path) -> Any:
    decoder, spans, at = json.JSONDecoder(), [], 0
    while (at := output.find("{", at)) >= 0:
        span, at = decoder.raw_decode(output, at)
        spans.append(span)
    names = {each["context"]["span_id"]: each["name"] for each in spans}
    told = []
    for each in spans:
        events = [event["name"] for event in each["events"]]
        told.append([each["name"], each["kind"], names.get(each["parent_id"]), each["status"], events])
    return told


def _tests(folder: Path, output: str, _: Path) -> Any:
    return re.sub(r" in [\d.]+s|0x[0-9a-f]+|rootdir: .*", "", output).splitlines()


@dataclass(frozen=True)
class Row:
    """One tool, started in one way.

    Attributes:
        name: of the tool.
        distribution: which it is installed from; "" for a part of Python.
        command: after the environment's `bin/`.
        compared: what must be the same with autoprof and without.
        read: makes what is compared from the folder, the standard output and the environment.
        must_hold: what the tool has to say alone already, or the comparison would be of nothing.
        calls: how often each function of the application must have been counted.
        declines: autoprof counts only, and says so, while the tool follows all calls from the start; on these versions.
        versions: the tool can do this there.
    """

    name: str
    distribution: str
    command: tuple[str, ...]
    compared: str
    read: Read
    must_hold: str
    calls: Mapping[str, int] = field(default_factory=lambda: DAY)
    variables: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    declines: tuple[int, ...] = ()
    versions: tuple[int, ...] = (11, 12, 13)
    unavailable: str = ""


def _more(**added: int) -> dict[str, int]:
    return {**DAY, **{name: DAY[name] + count for name, count in added.items()}}


_TWICE = {name: 2 * count for name, count in DAY.items()}
_COVER = ("python", "-W", "ignore", "-m", "coverage", "run", "--include", "shop/*")
_DD = {
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:9", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false", "DD_TRACE_STARTUP_LOGS": "false",
}  # fmt: skip
_OTEL = (
    "opentelemetry-instrument", "--traces_exporter", "console", "--metrics_exporter", "none", "--logs_exporter", "none",
)  # fmt: skip
ROWS = (
    Row("coverage, ctrace", "coverage", (*_COVER, "--branch", "run_day.py"), "lines and branches", _coverage,
        "missing_branches", variables={"COVERAGE_CORE": "ctrace"}, declines=(11, 12, 13)),
    Row("coverage, sysmon", "coverage", (*_COVER, "run_day.py"), "lines", _coverage, "missing_lines",
        variables={"COVERAGE_CORE": "sysmon"}, versions=(12, 13), unavailable="sys.monitoring is new in 3.12"),
    Row("debugpy", "debugpy", (), "breakpoints, stacks, locals and steps over the protocol", _as_printed, "doubled",
        declines=(11, 12, 13)),
    Row("ddtrace-run", "ddtrace", ("ddtrace-run", "python", "by_ddtrace.py"),
        "spans; calls seen by wrappers in replaced code objects", _last_line, "flask.request", _more(price=1),
        variables=_DD),
    Row("opentelemetry-instrument", "opentelemetry-distro", (*_OTEL, "python", "by_opentelemetry.py"),
        "spans, parents, errors", _spans, "fallible", _more(price=1)),
    Row("sentry", "sentry-sdk", ("python", "by_sentry.py"), "transaction, spans, frames and locals of an error, profile",
        _last_line, "compute", _more(price=1)),
    Row("beartype.claw", "beartype", ("python", "by_beartype.py"), "violations and their messages", _last_line,
        "BeartypeCallHint"),  # refused before the function is called
    Row("typeguard", "typeguard", ("python", "by_typeguard.py"), "violations and their messages", _last_line,
        "TypeCheckError", _more(price=1, fallible=1, **{"Basket.__init__": 1})),
    Row("pytest", "pytest", ("python", "-m", "pytest", "-p", "no:cacheprovider", "shop_tests.py"),
        "the whole output, a failed assertion in it", _tests, "assert 20 == 2",
        _more(price=4, **{"Basket.__init__": 1, "Basket.total": 1}), status=1),
    Row("cProfile", "", ("python", "by_cprofile.py"), "call counts; callers on 3.11", _last_line, "price:", _TWICE),
    Row("pyinstrument", "pyinstrument", ("python", "by_pyinstrument.py"), "functions and who calls them", _last_line,
        "compute", _TWICE),
    Row("yappi", "yappi", ("python", "by_yappi.py"), "call counts", _last_line, "price:", _TWICE),
)  # fmt: skip


def check(row: Row, venv: Path, minor: int) -> str:
    """Run a row without and with autoprof; return what autoprof itself has measured, in a word.

    Raises:
        Difference: something is not as it has to be.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "application"
        copytree(APPLICATION, folder, ignore=lambda *_: {"__pycache__"})
        (folder / "policy.yaml").write_text(POLICY, "utf-8")
        plain = _run(row, venv, folder, {})
        if row.must_hold not in json.dumps(plain):
            raise Difference(f"{row.name} alone does not say {row.must_hold!r}: {plain}")
        profiled = _run(row, venv, folder, {"AUTOPROF_CONFIG": "policy.yaml", "AUTOPROF_STRICT": "1"})
        if profiled != plain:
            raise Difference(f"{row.name} with autoprof:\n{profiled}\nand without:\n{plain}")
        return _check_ours(row, venv, folder, minor)


def _run(row: Row, venv: Path, folder: Path, ours: Mapping[str, str]) -> Any:
    path = f"{venv / 'bin'}:{environment().get('PATH', '')}"
    env = {**environment(), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **row.variables, **ours}
    if row.name == "debugpy":
        transcript, output = debugging.session(str(venv / "bin" / "python"), folder, env)
        return [json.loads(transcript), output]
    command = [str(venv / "bin" / row.command[0]), *row.command[1:]]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    if done.returncode != row.status:
        raise Difference(
            f"{row.name}: status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return [row.read(folder, done.stdout, venv), _own_errors(done.stderr)]


def _own_errors(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if "autoprof" in line]


def _check_ours(row: Row, venv: Path, folder: Path, minor: int) -> str:
    command = [str(venv / "bin" / "python"), "-m", "autoprof", "report", "autoprof-data", "--format", "json"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIME_LIMIT_S
    )
    if done.returncode:
        raise Difference(f"{row.name}: autoprof report: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    probes = {each["target"].partition(":")[2]: each for each in json.loads(done.stdout)["probes"]}
    counted = {name: each["calls"] for name, each in probes.items() if each["calls"]}
    if counted != dict(row.calls):
        raise Difference(f"{row.name}: autoprof counted {counted}, not {dict(row.calls)}")
    for name, each in probes.items():
        if each["calls"] != each["profiled"] + each["skipped"] + each["discarded"]:
            raise Difference(f"{row.name}: a call of {name} is neither measured nor skipped: {each}")
        if set(each["skipped_by"] or {}) - {"nested", "other_profiler"}:
            raise Difference(f"{row.name}: {name} was skipped by {each['skipped_by']}")
    samples = probes["compute"]["samples"] or 0
    skipped = sum((each["skipped_by"] or {}).get("other_profiler", 0) for each in probes.values())
    if minor in row.declines:
        if samples or not skipped:
            raise Difference(f"{row.name}: {samples} samples beside a tracer, {skipped} calls skipped")
        return "counts only"
    if not samples:
        raise Difference(f"{row.name}: no stacks: {probes['compute']}")
    return "measured outside of it" if skipped else "measured"
