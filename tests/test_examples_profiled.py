"""The example shop under its policies: the same pages, exact counts, a flame graph of the slow report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, Environment

pytest.importorskip("flask")

SHOP = REPOSITORY / "examples" / "shop"
CONFIG = REPOSITORY / "config"
LOAD = ("--requests", "80", "--workers", "1")

# Counts every call of the shop's functions in all threads. 'call' comes again when a generator goes on: only the
# RESUME at its start has the argument 0.
TRUTH = """\
import atexit, collections, json, re, runpy, sys, threading
counts = collections.Counter()
def look(frame, event, _):
    code = frame.f_code
    if event == "call" and re.search("/shop/shop/[a-z]+[.]py$", code.co_filename) and code.co_flags & 1:
        if code.co_code[frame.f_lasti + 1] & 3 == 0 and not code.co_name.startswith("<"):
            counts[frame.f_globals["__name__"] + ":" + code.co_qualname] += 1
def write():
    sys.setprofile(None)
    with open(TRUTH_FILE, "w") as out:
        json.dump(counts, out)
TRUTH_FILE = sys.argv.pop(1)
sys.argv[0] = sys.argv.pop(1)
sys.path[0] = sys.argv[0].rpartition("/")[0]
atexit.register(write)
threading.setprofile(look)
sys.setprofile(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# how often these run depends on time and on which thread is faster
UNSTEADY = re.compile(r"shop\.background:|shop\.db:Database\.(transaction|connection|_connect|close)$")


def probes(environment: Environment, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the last run's report."""
    done = environment.run("-m", "autoprof", "report", folder, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["probes"]
    return rows


def digest(out: str) -> str:
    """Read the digest of all pages from what the shop printed."""
    found = re.search(r"^digest ([0-9a-f]{16})$", out, re.MULTILINE)
    assert found, out
    return found[1]


@pytest.fixture(scope="module")
def plain(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, int]]:
    """The digest of a run without autoprof, and how often each function was called."""
    folder = tmp_path_factory.mktemp("truth")
    (folder / "truth.py").write_text(TRUTH)
    counts = folder / "counts.json"
    done = environment.run(folder / "truth.py", counts, SHOP / "main.py", *LOAD)
    assert (done.returncode, done.stderr) == (0, "")
    return digest(done.stdout), json.loads(counts.read_text())


def test_counts_are_exact_and_pages_unchanged(
    environment: Environment, plain: tuple[str, dict[str, int]], tmp_path: Path
) -> None:
    env = {"AUTOPROF_CONFIG": str(CONFIG / "shop.yaml"), "PYTHONWARNINGS": "error"}
    done = environment.run(SHOP / "main.py", *LOAD, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert digest(done.stdout) == plain[0]

    rows = probes(environment, tmp_path / "autoprof-data")
    silent = re.compile(r"shop\.(load|seed):|shop\.pricing:(?!price_line$)")
    wanted = {k: n for k, n in plain[1].items() if not UNSTEADY.match(k) and not silent.match(k)}
    assert len(wanted) > 40 and wanted["shop.pricing:price_line"] > 10_000
    assert {
        row["target"]: row["calls"] for row in rows if row["calls"] and not UNSTEADY.match(row["target"])
    } == wanted
    assert [row["target"] for row in rows if silent.match(row["target"])] == []


def test_the_slow_report_has_a_flame_graph(
    environment: Environment, plain: tuple[str, dict[str, int]], tmp_path: Path
) -> None:
    env = {"AUTOPROF_CONFIG": str(CONFIG / "shop.yaml"), "AUTOPROF_OUTPUT": str(tmp_path / "out")}
    done = environment.run(SHOP / "main.py", *LOAD, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {(row["target"], row["policy"]): row for row in probes(environment, tmp_path / "out")}
    flame = rows["shop.reports:sales_report", "flame_graph"]
    assert flame["calls"] == plain[1]["shop.reports:sales_report"] and flame["profiled"] >= 1
    drawn = (tmp_path / "out" / "sales-report.svg").read_text("utf-8")
    assert drawn.lstrip().startswith("<") and "sales_report" in drawn and "bought_together" in drawn


def test_the_hot_function_is_found(environment: Environment, tmp_path: Path) -> None:
    env = {"AUTOPROF_CONFIG": str(CONFIG / "shop.yaml"), "AUTOPROF_OUTPUT": str(tmp_path)}
    assert environment.run(SHOP / "main.py", "--requests", "300", env=env).returncode == 0
    rows = probes(environment, tmp_path)
    hottest = max(rows, key=lambda row: row["calls"])
    assert hottest["target"] == "shop.pricing:price_line"
    assert 0.045 < (hottest["profiled"] + hottest["skipped"]) / hottest["calls"] < 0.055
    slowest = sorted(
        (row for row in rows if row["estimated_total_ns"]), key=lambda row: -row["estimated_total_ns"]
    )
    assert "shop.reports:sales_report" in [row["target"] for row in slowest[:6]]
    for form, sign in (("text", "price_line"), ("html", "<html"), ("collapsed", "shop.")):
        done = environment.run("-m", "autoprof", "report", tmp_path, "--format", form)
        assert done.returncode == 0 and sign in done.stdout, form


def test_production_policy(
    environment: Environment, plain: tuple[str, dict[str, int]], tmp_path: Path
) -> None:
    env = {"AUTOPROF_CONFIG": str(CONFIG / "shop-production.yaml"), "AUTOPROF_OUTPUT": str(tmp_path)}
    done = environment.run(SHOP / "main.py", *LOAD, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert digest(done.stdout) == plain[0]
    for row in probes(environment, tmp_path):
        assert row["calls"] == plain[1].get(row["target"], 0), row["target"]


def test_the_load_in_another_process_and_profiled_too(
    environment: Environment, plain: tuple[str, dict[str, int]], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nbudget: off\nload: {cpu: off, memory: off}\n"
        'rules:\n  - {match: ["shop.*:*", "__main__:*"], policy: profile, rate: 1.0}\n'
    )
    env = {"AUTOPROF_CONFIG": str(policy), "AUTOPROF_OUTPUT": str(tmp_path / "out")}
    done = environment.run(SHOP / "main.py", *LOAD, "--apart", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert digest(done.stdout) == plain[0]
    rows = {row["target"]: row for row in probes(environment, tmp_path / "out")}
    assert rows["__main__:Crowd._send"]["calls"] == plain[1]["shop.load:Crowd._send"] == 80
    assert rows["__main__:load_apart"]["calls"] == 1
    assert rows["__main__:main"]["processes"] == 2
    assert rows["shop.app:product"]["calls"] == rows["shop.app:product"]["profiled"]
