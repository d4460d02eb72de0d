"""The guide's five patterns, as the files in config/ have them, on the example shop: what each of them promises."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprof import config
from autoprof.explain import check_lines
from tests.conftest import REPOSITORY, Environment

pytest.importorskip("flask")

SHOP = REPOSITORY / "examples" / "shop"
LOAD = ("--requests", "80", "--workers", "1")
# Years of orders instead of one: the sales report takes far longer than 100 ms on any machine.
OLD_SHOP = """\
import sys
sys.path.insert(0, SHOP)
import shop.seed
shop.seed.ORDERS = 25_000
import main
sys.exit(main.main(sys.argv[1:]))
"""
IS_UNTOUCHED = """\
import sys
sys.path.insert(0, SHOP)
import autoprof
import shop.reports
from autoprof.gate import gate_of
print(len(autoprof.status()), gate_of(shop.reports.sales_report.__code__))
"""

Promise = Callable[["Shop"], None]


class Shop:
    """The shop under one of the policy files.

    Attributes:
        output: the output folder.
        digest: of the pages without any profiler.
    """

    def __init__(self, environment: Environment, output: Path, name: str, digest: str) -> None:
        self.environment, self.output, self.digest = environment, output, digest
        policy = output.with_name(name)
        # A busy machine may not pause what the pattern promises.
        policy.write_text((REPOSITORY / "config" / name).read_text("utf-8") + "\nbudget: off\nload: off\n")
        self.env = {"AUTOPROF_CONFIG": str(policy), "AUTOPROF_OUTPUT": str(output)}

    def run(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run Python under the policy; the program must not notice."""
        done = self.environment.run(*arguments, env={**self.env, "PYTHONWARNINGS": "error", **env})
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done

    def serve(self, **env: str) -> None:
        """Serve the plan of requests; the pages must be the same as ever."""
        assert read_digest(self.run(SHOP / "main.py", *LOAD, **env).stdout) == self.digest

    def script(self, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script in the shop's folder."""
        return self.run("-c", f"SHOP = {str(SHOP)!r}\n{text}", *arguments)

    def autoprof(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command `autoprof`, without the policy."""
        return self.environment.run("-m", "autoprof", *arguments)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the report by target."""
        done = self.autoprof("report", self.output, "--format", "json")
        assert done.returncode == 0, done.stderr
        return {row["target"]: row for row in json.loads(done.stdout)["probes"]}


def read_digest(out: str) -> str:
    """Read the digest of all pages from what the shop printed."""
    found = re.search(r"^digest ([0-9a-f]{16})$", out, re.MULTILINE)
    assert found, out
    return found[1]


@pytest.fixture(scope="module")
def plain(environment: Environment) -> str:
    """The digest of the shop's pages without autoprof."""
    return read_digest(environment.run(SHOP / "main.py", *LOAD).stdout)


def always_on(shop: Shop) -> None:
    """Exact counts of every call, and one in a thousand measured, in any environment."""
    shop.serve()
    rows = shop.rows()
    assert set(rows) >= {"shop.pricing:price_line", "shop.orders:OrderBook.place", "shop.app:place_order"}
    assert rows["shop.orders:OrderBook.place"]["calls"] == rows["shop.app:place_order"]["calls"] == 3
    hot = rows["shop.pricing:price_line"]
    assert hot["calls"] > 50_000
    assert 0.0004 < (hot["profiled"] + hot["skipped"]) / hot["calls"] < 0.002
    assert hot["duration_ns"]["p50"] > 0 and hot["policy"] == "profile_production"


def deep_profiling(shop: Shop) -> None:
    """A flame graph while the variable says so; without it nothing is rewritten and nothing written."""
    for off in ({}, {"DEEP_PROFILE": "false"}):
        shop.serve(**off)
        assert not shop.output.exists()
    assert shop.script(IS_UNTOUCHED).stdout == "0 None\n"
    shop.serve(DEEP_PROFILE="true")
    drawn = (shop.output / "production_profile.svg").read_text("utf-8")
    assert drawn.lstrip().startswith("<") and "sales_report" in drawn and "bought_together" in drawn
    assert list(shop.output.glob("*.svg")) == [shop.output / "production_profile.svg"]
    assert list(shop.rows()) == ["shop.reports:sales_report"]


def slow_queries(shop: Shop) -> None:
    """Every slow query is kept with its stacks, no fast one is."""
    shop.script(OLD_SHOP, "--requests", "20", "--workers", "1")
    rows = shop.rows()
    slow = rows["shop.reports:sales_report"]
    assert slow["policy"] == "profile_if_slow"
    assert slow["slow"] == slow["calls"] >= 1
    assert slow["profiled"] + slow["skipped"] == slow["slow"] and slow["profiled"] >= 1
    assert slow["duration_ns"]["max"] >= 100_000_000 and slow["samples"] >= 5
    assert rows["shop.db:Database.rows"]["slow"] < rows["shop.db:Database.rows"]["calls"]
    found = shop.autoprof("report", shop.output, "--format", "collapsed", "--target", "*:sales_report")
    assert "shop.reports:bought_together" in found.stdout, found.stderr


def memory_leak(shop: Shop) -> None:
    """What calls do to the process's memory, in production: rss of every large batch, one handler's call in ten."""
    shop.serve(SHOP_ENV="test")
    assert not shop.output.exists()
    shop.serve()
    rows = shop.rows()
    report = rows["shop.reports:sales_report"]
    assert (report["policy"], report["calls"]) == ("profile_memory", 3)
    assert report["profiled"] + report["skipped"] == 3 and report["profiled"] >= 1
    assert isinstance(report["memory_delta_bytes"], int)
    handlers = [row for target, row in rows.items() if target.startswith("shop.app:")]
    calls, profiled = (sum(row[name] for row in handlers) for name in ("calls", "profiled"))
    assert calls > 100 and 0.02 < profiled / calls < 0.3
    assert not list(shop.output.glob("*.json"))  # the expensive detail waits for LEAK_DETAIL


def ab_comparison(shop: Shop) -> None:
    """`compare` says which of the two is faster, from 5 % of the calls, in production only."""
    shop.serve(SHOP_ENV="test")
    assert not shop.output.exists()
    shop.serve()
    done = shop.autoprof(
        "compare", "*:score_by_words", "*:score_by_weights", shop.output, "--format", "json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "faster" and found["ratio_high"] < 0.9  # it is half
    for side in ("a", "b"):
        assert 0.02 < found[side]["measured"] / found[side]["calls"] < 0.08
        assert found[side]["calls"] % 180 == 0  # products in the shop


PATTERNS: dict[str, Promise] = {
    "always-on.yaml": always_on,
    "deep-profiling.yaml": deep_profiling,
    "slow-queries.yaml": slow_queries,
    "ab-comparison.yaml": ab_comparison,
    "memory-leak.yaml": memory_leak,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_keeps_its_promise(name: str, environment: Environment, plain: str, tmp_path: Path) -> None:
    PATTERNS[name](Shop(environment, tmp_path / "out", name, plain))


@pytest.mark.parametrize("name", PATTERNS)
def test_every_rule_of_a_pattern_names_a_function_of_the_shop(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHOP)
    env = {"DEEP_PROFILE": "true"}
    status, out, problems = check_lines(str(REPOSITORY / "config" / name), env=env, against=["shop"])
    assert (status, problems) == (0, []), out
    assert "every rule matches a function of shop" in out[-1]
    assert not [line for line in out if "warning" in line]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("env_name", ["dev", "test", "prod"])
def test_the_environments_of_a_pattern(name: str, env_name: str) -> None:
    policy = config.load(REPOSITORY / "config" / name, env={"DEEP_PROFILE": "1"}, env_name=env_name)
    where = {"ab-comparison.yaml": {"prod"}, "memory-leak.yaml": {"dev", "prod"}}.get(name)
    assert bool(policy.active_rules) is (where is None or env_name in where)
    assert config.load(REPOSITORY / "config" / name, env={}).env == "prod"


def test_deep_profiling_is_off_unless_it_is_asked_for() -> None:
    path = REPOSITORY / "config" / "deep-profiling.yaml"
    assert [bool(config.load(path, env=env).active_rules) for env in ({}, {"DEEP_PROFILE": "true"})] == [
        False,
        True,
    ]
