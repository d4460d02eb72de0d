"""What to do about missing profiles, high overhead and memory: each sentence with the figures it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from autoprof import advice, config, probe, schema
from autoprof.policy import Policy
from autoprof.store_records import ProbeRow, ProbeState, ProcessRow, ReportData, RunInfo
from tests.conftest import Environment
from tests.stored import SECOND_NS


def row(
    target: str = "shop:price", policy: str = "profile", strategy: str = "sample", **more: Any
) -> ProbeRow:
    """Make a row of a report; `skipped` is by reason."""
    made = ProbeRow(target, policy, strategy)
    made.rules = ["rule 1"]
    made.skipped_by = more.pop("skipped", {})
    for name, value in more.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def run(
    *rows: ProbeRow, states: list[ProbeState] | None = None, lived_s: float = 10, own_ns: int = 0
) -> ReportData:
    """Make the data of a run with one process."""
    data = ReportData("a-run")
    process = ProcessRow(1, "host", "a-run", 0, int(lived_s * SECOND_NS))
    process.ended_ns = process.last_ns
    process.overhead_ns = own_ns + sum(each.overhead_ns for each in rows)
    data.processes = [process]
    data.runs = [RunInfo("a-run", [process])]
    data.probes = list(rows)
    data.states = states or []
    return data


def options(kind: str = "profile", **given: object) -> dict[str, object]:
    """Return complete options."""
    return schema.options_for(kind, **given)


def policy(text: str, env: str = "dev") -> Policy:
    """Read a policy."""
    return config.loads("version: 1\n" + text, filename="policy.yaml", env={}, env_name=env)


# missing profiles


def test_a_rate_too_low_for_so_few_calls() -> None:
    counts, said = advice.row_lines(row(calls=400, profiled=3), options(rate=0.01))
    assert counts == "400 calls, 3 profiled"
    assert said == "at rate 1% about 4 profiles come of that many calls; rate: 5% gives 20"
    said = advice.row_lines(row(calls=7), options(rate=0.001))[1]
    assert said == "at rate 0.1% about 0.007 profiles come of that many calls; rate: 100% gives 7"


def test_the_key_of_the_rate_is_that_of_the_policy() -> None:
    said = advice.row_lines(row(policy="profile_production", calls=900), options("profile_production"))[1]
    assert said.startswith("at sample_rate 0.1%") and "sample_rate: 3% gives 20" in said
    assert (
        advice.row_lines(row(calls=9), options(rate=0))[1]
        == "rate: 0 only counts calls: write a rate to have profiles"
    )


def test_enough_profiles_need_no_advice() -> None:
    assert advice.row_lines(row(calls=5_000, profiled=48), options()) == ["5,000 calls, 48 profiled"]


def test_a_threshold_above_every_call() -> None:
    found = advice.row_lines(row(calls=500, discarded=7), options(threshold="2s"))
    assert found == [
        "500 calls, 0 profiled, 7 discarded",
        "every measured call was under the threshold of 2s: lower it",
    ]


def test_every_keeps_the_gate_closed() -> None:
    found = advice.row_lines(
        row(calls=500, profiled=2, policy="flame_graph"), options("flame_graph", every="10s")
    )
    assert found[1:] == ["every: 10s allows one profile in that time and process; write a shorter one"]


@pytest.mark.parametrize("reason", probe.REASONS)
def test_every_reason_to_skip_has_a_sentence(reason: str) -> None:
    counts, said = advice.row_lines(row(calls=500, profiled=90, skipped={reason: 8}), options())
    assert counts == f"500 calls, 90 profiled, 8 skipped (8 {reason})"
    assert said == f"{reason}: {advice.SKIPPED[reason]}" and len(said) > 60


def test_a_hostile_reason_is_only_counted() -> None:
    found = advice.row_lines(row(calls=5, profiled=5, skipped={"\x1b[31m": 2}), options())
    assert found == ["5 calls, 5 profiled, 2 skipped (2 \\x1b[31m)"]


def test_functions_that_the_last_run_does_not_have() -> None:
    def said(*states: ProbeState, target: str = "shop:price") -> str:
        data = run(row("shop.db:find", calls=3), states=list(states))
        (line,) = advice.last_run_lines(data, target, {"profile": options()})
        return line

    state = ProbeState("shop:price", "rule 1", "profile", "sample", "installed", "waiting for its first call")
    assert said(state) == "profile: installed, and not called"
    state.state, state.reason = "failed", "can't be rewritten: odd"
    assert said(state) == "profile: failed: can't be rewritten: odd"
    assert said().startswith("profile: shop was never imported in that run")
    assert said(target="shop.db:gone").startswith("profile: not installed, though shop.db was imported")


def test_a_policy_that_is_not_given_any_more() -> None:
    found = advice.last_run_lines(run(row(calls=9, profiled=9)), "shop:price", {})
    assert found == ["profile: 9 calls, 9 profiled", "  measured then; the policy file does not give it now"]
    assert advice.last_run_lines(run(row(calls=9)), "other:f", {}) == []


def test_a_probe_that_load_pauses() -> None:
    paused = ProbeState("shop:price", "rule 1", "profile", "sample", "paused", "paused by load: 95% of it")
    other = ProbeState("shop:price", "rule 2", "profile_memory", "memory", "paused", "of another policy")
    data = run(row(calls=9_000, profiled=90), states=[paused, other])
    assert advice.last_run_lines(data, "shop:price", {"profile": options()}) == [
        "profile: 9,000 calls, 90 profiled",
        "  paused by load: 95% of it: calls are counted meanwhile, and profiles come again when it is over; "
        "check_load: false measures all the same",
    ]
    (said,) = advice.last_run_lines(run(states=[paused]), "shop:price", {"profile": options()})
    assert said == "profile: paused: paused by load: 95% of it"


def test_what_excludes_a_rule_and_what_to_write() -> None:
    rules = policy(
        "rules:\n"
        "  - {match: 'a:*', policy: profile, env: prod}\n"
        "  - {match: 'a:*', policy: profile, enabled: false, name: off}\n"
        "  - {match: 'a:*', policy: profile}\n"
    ).rules
    assert advice.exclusion_lines(rules, "dev") == [
        "rule 1 selects it: write env: [prod, dev] there, or set AUTOPROF_ENV=prod",
        "off selects it: write enabled: true there, or set the variable it is taken from",
    ]


def test_the_load_above_which_it_pauses() -> None:
    assert advice.load_line(policy("load: {cpu: 70%, memory: off}\nrules: []")).startswith(
        "check_load: measuring pauses above cpu 70%"
    )
    assert advice.load_line(policy("load: off\nrules: []")) == ""


# high overhead


def test_the_costliest_come_first_with_their_share() -> None:
    data = run(
        row("m:cheap", calls=10, overhead_ns=1_000),
        row("m:dear", calls=1_000, profiled=1_000, overhead_ns=500_000_000),
        own_ns=20_000_000,
    )
    said = advice.cost_lines(data, None)
    assert said == [
        "5.2% of the time of the last run; 1% is the budget",
        "5% m:dear [profile, rule 1]: 500ms for 1,000 calls; to lower it: rate: 0.1",
        "0.000011% m:cheap [profile, rule 1]: 1.1us for 10 calls",
        "0.2% the sampler and the writer: 20ms",
    ]
    assert advice.cost_lines(data, policy("budget: 60%\nrules: []"))[1].endswith("for 1,000 calls")


def test_the_share_is_of_all_processes() -> None:
    data = run(row(calls=1, overhead_ns=SECOND_NS))
    other = ProcessRow(2, "host", "a-run", 0, 30 * SECOND_NS)  # still running
    data.processes.append(other)
    assert advice.costs(data)[0].share == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("made", "edit"),
    [
        (row(calls=10_000, profiled=100, overhead_ns=10**9), "rate: 0.001"),
        (row(calls=10_000, profiled=50, skipped={"busy": 50}, overhead_ns=10**9), "rate: 0.001"),
        (
            row(calls=10_000, profiled=100, overhead_ns=10**9, policy="profile_production"),
            "sample_rate: 0.001",
        ),
        (
            row(calls=1_000_000, profiled=1_000, overhead_ns=2 * 10**7),
            "except: shop:price",
        ),  # no rate is low enough
        (row(calls=10_000_000, profiled=10, overhead_ns=10**6), "except: shop:price (or a narrower glob)"),
        (
            row(calls=100, profiled=10, overhead_ns=10**9, strategy="flame_graph", policy="flame_graph"),
            "every: 10s, and async: true",
        ),
        (
            row(calls=100, profiled=100, overhead_ns=10**9, strategy="call_graph"),
            "rate: 0.1, or strategy: sample; leave call_graph to env: [dev]",
        ),
        (
            row(calls=100, slow=4, overhead_ns=10**9, policy="profile_if_slow"),
            "env: [dev], or a narrower glob",
        ),
    ],
)
def test_the_edit_that_cures(made: ProbeRow, edit: str) -> None:
    cost = advice.Cost(made, 100 * SECOND_NS)
    assert advice.cure(cost, 0.11 * cost.share if "every" not in edit else 0.01).startswith(edit)


@pytest.mark.parametrize("share", [0.99, 0.5, 0.123, 0.01, 0.002_3])
def test_the_new_rate_costs_what_is_allowed(share: float) -> None:
    """The rate in the edit, times the cost of a measured call, is within the allowance and not far below it."""
    calls, per_call_ns = 200_000, 30_000
    profiled = round(calls * share)
    cost = advice.Cost(row(calls=calls, profiled=profiled, overhead_ns=profiled * per_call_ns), SECOND_NS)
    allowed = cost.share / 3
    found = re.fullmatch(r"rate: ([0-9.]+)", advice.cure(cost, allowed))
    assert found
    costs_then = float(found[1]) * calls * per_call_ns / SECOND_NS
    assert allowed * 0.4 < costs_then + 200_000 * 10 / SECOND_NS <= allowed
    schema.options_for("profile", rate=found[1])  # it can be written as it stands


# memory


def test_bytes_of_the_folder(tmp_path: Path) -> None:
    assert advice.folder_bytes(str(tmp_path / "none")) == (0, 0)
    for name, size in (
        ("autoprof-1.db", 5_000),
        ("autoprof-1.db-wal", 700),
        ("graph.svg", 30),
        ("other.db", 4),
    ):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("autoprof-1.db")
    assert advice.folder_bytes(str(tmp_path)) == (5_700, 34)
    said = advice.memory_lines(str(tmp_path), None, 9_000_000)
    assert said == [
        f"5.7KB in the store, 34B in other files of {str(tmp_path)!r}, about 9MB in a process at its start"
    ]


def test_the_edits_of_the_guide() -> None:
    found = policy(
        "rules:\n"
        "  - {match: 'a:*', policy: profile, strategy: call_graph, name: graph}\n"
        "  - {match: 'b:*', policy: profile_memory, name: leaks}\n"
        "  - {match: 'c:*', policy: profile, name: cheap}\n"
        "  - {match: 'd:*', policy: flame_graph, duration: 1m, name: long}\n"
        "  - {match: 'e:*', policy: profile, strategy: memory, duration: 5s, threshold: 1s, env: prod}\n"
    )
    assert advice.memory_lines("none", found, None)[1:] == [
        "graph: strategy: sample keeps less than call_graph",
        "graph: threshold: 1s keeps only the calls that matter",
        "graph: duration: 10s bounds what one call can gather",
        "leaks: threshold: 10MB tells of large allocations only",
        "long: duration: 10s bounds what one call can gather",
    ]


# end to end

PROGRAM = """\
import sys
sys.path.insert(0, {folder!r})
import wares
for number in range(4_000):
    wares.small(number)
for number in range(6):
    wares.recurse(3)
wares.rare()
"""
WARES = """\
def small(number):
    return sum(range(40))

def recurse(depth):
    return recurse(depth - 1) if depth else 0

def rare():
    return 1

def unused():
    return 2
"""
POLICY = """\
version: 1
output: out
budget: off
load: off
rules:
  - {match: wares:small, policy: profile, rate: 1.0, name: all of them}
  - {match: wares:recurse, policy: profile, rate: 1.0}
  - {match: wares:rare, policy: profile}
  - {match: wares:unused, policy: profile}
  - {match: nowhere:f, policy: profile}
  - {match: wares:*, policy: flame_graph, env: prod}
"""


def test_a_real_run_is_explained(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "wares.py").write_text(WARES)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "app.py").write_text(PROGRAM.format(folder=str(tmp_path)))
    before = environment.run("-m", "autoprof", "explain", "policy.yaml", "wares:small", cwd=tmp_path)
    assert "the last run:\n  none in 'out': was the program run with AUTOPROF_CONFIG" in before.stdout
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    assert environment.run("app.py", cwd=tmp_path, env=env).returncode == 0

    def explained(target: str, *more: str) -> str:
        done = environment.run("-m", "autoprof", "explain", "policy.yaml", target, *more, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout

    assert "  profile: 4,000 calls, 4,000 profiled\n" in explained("wares:small")
    out = explained("wares:recurse")
    assert "24 calls, 6 profiled, 18 skipped (18 nested)" in out and "the outermost call stands for" in out
    out = explained("wares:rare")
    assert "at rate 1% about 0.01 profiles come of that many calls; rate: 100% gives 1" in out
    assert "profile: installed, and not called" in explained("wares:unused")
    assert "profile: nowhere was never imported in that run" in explained("nowhere:f")
    assert "it was in the environment dev, this is about prod" in explained("wares:rare", "--env", "prod")

    doctor = environment.run("-m", "autoprof", "doctor", cwd=tmp_path, env=env)
    assert re.search(
        r"^overhead  [0-9.]+% of the time of the last run; 1% is the budget$", doctor.stdout, re.M
    )
    assert re.search(
        r"wares:small \[profile, all of them\]: .* for 4,000 calls; to lower it: rate: 0", doctor.stdout
    )
    memory = re.search(
        r"^memory    ([0-9.]+)KB in the store, 0B in other files of '.*out'(.*)$", doctor.stdout, re.M
    )
    assert memory and float(memory[1]) > 10, doctor.stdout
    if Path("/proc/self/statm").exists():
        started = re.search(r"about ([0-9.]+)MB in a process at its start", memory[2])
        assert started and 1 < float(started[1]) < 60
    assert doctor.returncode == 0 and doctor.stdout.endswith("live: programs started here are profiled\n")


def test_a_damaged_store_is_one_line(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "autoprof-1.db").write_bytes(b"garbage " * 100)
    done = environment.run("-m", "autoprof", "explain", "policy.yaml", "wares:small", cwd=tmp_path)
    assert done.stderr == "'out/autoprof-1.db' is not an SQLite file\n" and "all of them" in done.stdout
    done = environment.run(
        "-m", "autoprof", "doctor", cwd=tmp_path, env={"AUTOPROF_CONFIG": str(tmp_path / "policy.yaml")}
    )
    assert "overhead  not known: " in done.stdout and "Traceback" not in done.stdout + done.stderr
    done = environment.run(
        "-m", "autoprof", "explain", "policy.yaml", "wares:small", "--data", "nope", cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no folder 'nope'\n")
