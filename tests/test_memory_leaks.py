"""A leak is found, in blocks and in rss, and what the caller lets go of is none."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprof import config, session
from tests.conftest import REPOSITORY, Environment
from tests.memory_module import BACK_ENDS, OF_LINUX, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


LEAKING = """
import sys

kept, slots, lines = [], [None] * 64, []

def leak(number):
    kept.append(bytes(67))          # 33 + 67 bytes

def sound(number):
    text = [str(each) for each in range(number % 50)]
    slots[number % 64] = bytes(67)  # what it keeps takes the place of what it kept
    return len(text)

def join(number):
    return ",".join(str(each) for each in range(60))  # the caller lets go of it

def tidy(number):
    lines[:] = [{"line": each} for each in range(20)]

for number in range(50_000):
    leak(number)
    sound(number)
    join(number)
    tidy(number)
"""


@OF_LINUX
def test_a_leak_of_100_bytes_a_call_is_found(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LEAKING)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nenv: prod\nbudget: off\nload: off\nreload: off\nrules:\n"
        "  - {match: '__main__:*', policy: profile_memory, env: [prod], threshold: 50MB}\n"
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"}, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    shown = environment.run("-m", "autoprof", "report", "--format", "json", cwd=tmp_path)
    rows = {each["target"]: each for each in json.loads(shown.stdout)["probes"]}
    assert {each["profiled"] for each in rows.values()} == {50_000}
    blocks = {
        name.partition(":")[2]: each["memory_blocks_delta"] / each["memory_blocks_calls"]
        for name, each in rows.items()
    }
    # A loaded machine reads blocks seldom (what takes over 10 us is left), and the writer's few show more in the mean.
    assert abs(blocks["leak"] - 1) < 0.3, blocks
    assert all(abs(blocks[each]) < 0.4 for each in ("sound", "tidy", "join")), blocks
    # Whose pages they are rss can't say (`sound` takes some that the leak then fills), but that there are more.
    assert sum(each["memory_delta_bytes"] for each in rows.values()) > 4_000_000, rows
    text = environment.run("-m", "autoprof", "report", "--format", "text", cwd=tmp_path).stdout
    # On a loaded machine other lines show a tenth of a block or two, as above.
    told = re.compile(r"memory [\d.]+[KM]B; .*\+[\d,]+ blocks in [\d,]+ calls, \+(1\.[0-2]\d|0\.[7-9]\d) a call")
    assert len([each for each in text.splitlines() if told.search(each)]) == 1, text


LARGE = """
kept = []
def leak():
    kept.append(bytearray(b"x") * 70_000)
def sound():
    return len([str(each) for each in range(1_000)])
for _ in range(300):
    leak()
    sound()
"""


@OF_LINUX
def test_a_leak_of_large_blocks_is_in_rss(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LARGE)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nbudget: off\nload: off\nrules:\n  - {match: '__main__:*', policy: profile_memory}\n"
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    shown = environment.run("-m", "autoprof", "report", "--format", "json", cwd=tmp_path)
    grown = {each["target"]: each["memory_delta_bytes"] / 300 for each in json.loads(shown.stdout)["probes"]}
    assert 60_000 < grown["__main__:leak"] < 80_000, grown
    assert grown["__main__:leak"] > 4 * abs(grown["__main__:sound"]), grown


@pytest.mark.usefixtures("no_flushes")
def test_results_are_not_left_behind(make: Make) -> None:
    subject = make()
    assert session.current is not None
    session.current.strategies["profile_memory"]._reader._blocks_max_ns = 10**12
    probe = subject.probe("call")
    held = "held" * 20
    for act, stays in (
        (lambda number: "fresh" * number, 0),
        (lambda number: number * 10**6, 0),
        (lambda number: held, 0),
        (lambda number: None, 0),
        (lambda number: subject.kept.append("left" * number), 1),
    ):
        subject.call(act, 5)
        probe.take_memory_counts()
        for number in range(30, 60):
            subject.call(act, number)
        counts = probe.take_memory_counts()
        assert counts["blocks_calls"] == 30
        room = 0.5 if sys.gettrace() is None else 1.5  # a tracer of coverage's keeps blocks, too
        assert abs(counts["blocks"] / 30 - stays) < room, (counts, stays)
    probe.take_memory_counts()
    subject.call(lambda: [1])  # what all belongs to it is not known
    assert "blocks_calls" not in probe.take_memory_counts()
    subject.kept.clear()


def test_the_policy_file_for_leaks_is_good(environment: Environment) -> None:
    path = REPOSITORY / "config" / "memory-leak.yaml"
    done = environment.run("-m", "autoprof", "check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    policy = config.load(str(path), env={})
    assert policy.env == "prod" and policy.inactive == ()
    (batch,) = policy.decide("shop.reports", "sales_report").grants
    assert (batch.kind, batch.options["threshold_bytes"]) == ("profile_memory", 50_000_000)
    (handler,) = policy.decide("shop.app", "home").grants
    assert (handler.kind, handler.options["rate"]) == ("profile_memory", 0.1)
    deep = config.load(str(path), env={"LEAK_DETAIL": "true"}).decide("shop.reports", "sales_report")
    assert [each.kind for each in deep.grants] == ["profile_memory", "profile"]
