"""compare: the verdict is right as often as it says, whatever the shape of the durations, and its errors are one line."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprof import cli
from autoprof.comparison import CANT_TELL, FASTER, LEAST_CALLS, SLOWER, Comparison, Median, lower_rank
from autoprof.histogram import bucket, lower_ns
from autoprof.reports.compare import Chooser, Comparing
from autoprof.store import ProbeDelta
from tests.stored import SECOND_NS, delta, no_open_writers, reader, writer

__all__ = ["no_open_writers"]

Draw = Callable[[random.Random, float], float]

SHAPES: dict[str, Draw] = {
    "lognormal": lambda chance, median_ns: median_ns * math.exp(chance.gauss(0, 0.5)),
    "long tail": lambda chance, median_ns: median_ns * math.exp(chance.gauss(0, 1.2)),
    "two humps": lambda chance, m: (
        m * (chance.gauss(1, 0.1) if chance.random() < 0.6 else chance.gauss(3, 0.4))
    ),
    "a bucket wide": lambda chance, median_ns: median_ns * chance.gauss(1, 0.06),
    "within a bucket": lambda chance, median_ns: median_ns * chance.gauss(1, 0.01),
    "constant": lambda chance, median_ns: median_ns,
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def counted(chance: random.Random, shape: str, median_ns: float, calls: int) -> dict[int, int]:
    """Draw durations into a histogram."""
    draw = SHAPES[shape]
    return Counter(bucket(round(draw(chance, median_ns))) for _ in range(calls))


def simulated(shape: str, ratio: float, calls: int, times: int) -> list[Comparison]:
    """Compare two functions whose medians have a known ratio, at many places of the buckets."""
    chance = random.Random(f"{shape} {ratio} {calls}")
    found = []
    for _ in range(times):
        median_ns = 50_000 * 2 ** chance.random()
        a, b = (Median(counted(chance, shape, median_ns * times, calls)) for times in (1, ratio))
        found.append(Comparison(a, b))
    return found


# how often it is right


@shapes
@pytest.mark.parametrize("calls", [40, 400])
def test_equal_functions_are_told_apart_in_at_most_one_case_of_twenty(shape: str, calls: int) -> None:
    found = simulated(shape, 1.0, calls, 300)
    # 5 % of 300 are 15, with a standard error of 3.8
    assert sum(each.verdict != CANT_TELL for each in found) <= 23


@shapes
@pytest.mark.parametrize("ratio", [0.7, 1.03, 1.2])
def test_the_interval_holds_the_true_ratio(shape: str, ratio: float) -> None:
    found = simulated(shape, ratio, 150, 300)
    held = sum(
        each.low is not None and each.high is not None and each.low <= ratio <= each.high for each in found
    )
    assert held >= 277  # 285 less two standard errors
    wrong = FASTER if ratio > 1 else SLOWER
    assert sum(each.verdict == wrong for each in found) <= 7


@shapes
def test_a_fifth_more_is_found(shape: str) -> None:
    calls = 3_000 if shape == "long tail" else 800
    assert sum(each.verdict == SLOWER for each in simulated(shape, 1.2, calls, 60)) >= 58
    assert sum(each.verdict == FASTER for each in simulated(shape, 1 / 1.2, calls, 60)) >= 58


def test_the_interval_is_no_wider_than_the_calls_make_it() -> None:
    """Where the durations are smooth, buckets of 6.25 % cost nothing: a difference of 3 % is found."""
    found = simulated("lognormal", 1.03, 20_000, 20)
    assert sum(each.verdict == SLOWER for each in found) >= 15
    widths = [math.log(each.high / each.low) / 2 for each in found if each.low and each.high]
    true_width = 1.96 * math.sqrt(2) * 0.5 * math.sqrt(math.pi / 2 / 20_000)
    assert sum(widths) / 20 == pytest.approx(true_width, rel=0.25)


def test_the_calls_needed_are_enough_four_times_in_five() -> None:
    small = simulated("lognormal", 1.2, 60, 100)
    asked = [each for each in small if each.verdict == CANT_TELL and each.more]
    needed = sorted(60 + each.more[0] for each in asked if each.more)
    # 20 % at a spread of 0.5 takes about 2 * (2.8 * 0.5 * 1.2533 / 0.1823)**2 calls of each
    assert len(asked) > 50 and 100 < needed[len(needed) // 2] < 2_000
    found = simulated("lognormal", 1.2, 186, 200)
    assert 0.70 < sum(each.verdict == SLOWER for each in found) / 200 < 0.9


def test_spikes_inside_a_bucket_are_not_overrated() -> None:
    """Both medians are the same spike; other calls move its place in the bucket: no difference is seen."""
    spike = bucket(100_000)
    a = Median({bucket(10_000): 4_000, spike: 5_000, bucket(900_000): 1_000})
    b = Median({bucket(10_000): 1_000, spike: 5_000, bucket(900_000): 4_000})
    assert a.median_ns < b.median_ns * 0.98
    assert (Comparison(a, b).verdict, Comparison(a, b).more) == (CANT_TELL, (0, 0))
    assert Comparison(a, b, difference=0.01).more is None  # no number of calls would do
    assert a.interval_ns == pytest.approx((lower_ns(spike), lower_ns(spike + 1)), rel=0.002)


def test_two_spikes_in_different_buckets_keep_their_order() -> None:
    one, other = {bucket(100_000): 500}, {bucket(110_000): 500}
    assert Comparison(Median(one), Median(other)).verdict in (SLOWER, CANT_TELL)
    assert Comparison(Median(one), Median({bucket(130_000): 500})).verdict == SLOWER


@pytest.mark.parametrize("calls", [6, 7, 10, 30, 100, 999, 1_000, 1_001, 5_000])
def test_the_ranks_are_the_binomial_ones(calls: int) -> None:
    rank = lower_rank(calls)
    inside = sum(math.comb(calls, count) for count in range(rank, calls - rank + 1)) / 2**calls
    narrower = sum(math.comb(calls, count) for count in range(rank + 1, calls - rank)) / 2**calls
    assert inside >= 0.9499 and narrower < 0.9501


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_too_few_calls_have_no_interval(calls: int) -> None:
    found = Comparison(Median({100: calls}), Median({100: 1_000}))
    assert (found.verdict, found.low, found.high) == (CANT_TELL, None, None)
    assert found.more == (LEAST_CALLS - calls, 0)


def test_extremes_do_no_harm() -> None:
    tiny, huge = Median({0: 50}), Median({bucket(2**63 - 1): 10**15})
    assert Comparison(tiny, huge).verdict == SLOWER
    assert Comparison(huge, tiny).verdict == FASTER
    damaged = Median({-5: 10, 10**9: 7, 100: -3, 200: 9})
    assert damaged.calls == 9


# from a store


def measured(target: str, durations: dict[int, int], **more: object) -> ProbeDelta:
    """Return what a probe counted, measured at 5 %."""
    calls = sum(durations.values())
    options: dict[str, Any] = {"policy": "profile", "strategy": "sample", **more}
    total_ns = sum((lower_ns(index) + lower_ns(index + 1)) // 2 * count for index, count in durations.items())
    return ProbeDelta(
        target, "rule 1", calls=20 * calls, profiled=calls, total_ns=total_ns, durations=durations, **options
    )


def test_two_hundred_stored_pairs_of_equals(tmp_path: Path) -> None:
    chance = random.Random(7)
    made = writer(tmp_path)
    pairs = range(200)
    made.write([
        measured(f"pair{i}:{side}", counted(chance, "lognormal", 80_000, 200)) for i in pairs for side in "ab"
    ], now_ns=time.time_ns())  # fmt: skip
    made.close(time.time_ns())
    chooser = Chooser(reader(tmp_path), "here", "last", None)
    found = [Comparing(chooser, f"pair{i}:a", f"pair{i}:b", 0.05).result for i in pairs]
    assert sum(each.verdict != CANT_TELL for each in found) <= 16


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of two runs: an old one, and one in which v2 is a fifth faster."""
    chance = random.Random(3)
    monkeypatch.chdir(tmp_path)
    now_ns = time.time_ns()
    for run, age_ns in (("old-run", 60 * SECOND_NS), ("new-run", 0)):
        made = writer("data", run, started_ns=now_ns - age_ns - SECOND_NS)
        speed = 1.5 if run == "old-run" else 1.0
        made.write([
            measured("shop.pricing:price_v1", counted(chance, "lognormal", speed * 100_000, 600)),
            measured("shop.pricing:price_v2", counted(chance, "lognormal", speed * 80_000, 600)),
            measured("shop.pricing:twin", counted(chance, "lognormal", 100_000, 600), policy="profile"),
            measured("shop.pricing:twin", counted(chance, "lognormal", 100_000, 9), policy="flame_graph",
                     strategy="flame_graph", discarded=4),
            measured("shop.pricing:few", {bucket(1_000): 2}),
            delta("shop.pricing:never", durations=()),
        ], now_ns=now_ns - age_ns)  # fmt: skip
        made.close(now_ns - age_ns)
    return tmp_path / "data"


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command."""
    try:
        status = cli.main(["compare", *arguments])
    except SystemExit as left:
        status = int(left.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


V1, V2 = "shop.pricing:price_v1", "shop.pricing:price_v2"


def test_the_faster_one_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = compare(capsys, V1, V2, "data")
    assert (status, err) == (0, "")
    assert out.startswith("faster: B's median is 0.") and "times A's (95% interval 0." in out
    assert "12,000  shop.pricing:price_v1, run new-run" in out and "needed" not in out
    assert compare(capsys, V2, V1, "data")[1].startswith("slower: B's median is 1.")


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(compare(capsys, V1, V2, "data", "--format", "json")[1])
    assert (found["verdict"], found["schema"], found["confidence"]) == ("faster", 1, 0.95)
    assert found["ratio_low"] < found["ratio"] < found["ratio_high"] < 1
    assert found["ratio"] == pytest.approx(found["b"]["median_ns"] / found["a"]["median_ns"], rel=1e-4)
    assert found["a"]["median_low_ns"] < found["a"]["median_ns"] < found["a"]["median_high_ns"]
    assert (found["a"]["target"], found["a"]["run"], found["a"]["measured"]) == (V1, "new-run", 600)
    few = json.loads(compare(capsys, V1, "*:few", "data", "--format", "json")[1])
    assert (few["verdict"], few["ratio_low"], few["b"]["median_low_ns"]) == ("can't tell", None, None)
    assert few["measured_calls_needed"] == {"a": 0, "b": 4}


def test_globs_and_the_default_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPROF_OUTPUT", "data")
    assert compare(capsys, "*_v1", "shop.*:*_v2")[1].startswith("faster: ")


def test_one_function_in_two_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = compare(capsys, f"old-run/{V1}", V1, "data")
    assert status == 0 and out.startswith("faster: ")
    assert f"{V1}, run old-run" in out and f"{V1}, run new-run" in out
    assert "run old-run" in compare(capsys, V1, V2, "data", "--run", "old")[1]
    assert "run all" in compare(capsys, V1, V2, "data", "--run", "all")[1]


def test_what_cannot_be_told_says_what_it_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = compare(capsys, V1, "*:twin", "data", "--policy", "profile")
    assert status == 0 and out.startswith("can't tell: ")
    assert "to tell a difference of 5%, about " in out and " calls\n" in out
    out = compare(capsys, V1, "*:twin", "data", "--policy", "profile", "--difference", "30%")[1]
    assert "if there is a difference, it is below 30%" in out
    out = compare(capsys, V1, "*:few", "data")[1]
    assert "at least 0 more measured calls of A and 4 of B are needed" in out


def test_different_ways_of_measuring_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = compare(capsys, V1, "*:twin", "data", "--policy", "flame_graph")[2]
    assert "nothing named 'shop.pricing:price_v1' was measured by flame_graph" in out
    first = Chooser(reader(folder), "here", "last", None)
    second = Chooser(reader(folder), "here", "last", "flame_graph")
    compared = Comparing(first, V1, V2, 0.05)
    compared.b = second.choose("*:twin")
    shown = compared.render("text")
    assert "note: A was measured by profile (sample), B by flame_graph (flame_graph)" in shown
    assert "note: B has a threshold: 4 calls under it" in shown


def test_slow_calls_alone_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = writer(tmp_path)
    for name in "ab":  # the total is of all calls, the histogram of the slow ones
        made.write(
            [measured(f"m:{name}", {bucket(10**8): 30}, policy="profile_if_slow")],
            now_ns=time.time_ns(),
        )
    made.close(time.time_ns())
    status, out, err = compare(capsys, "m:a", "m:b", str(tmp_path))
    assert (status, err) == (0, "") and " - " in out
    assert "note: B is measured by profile_if_slow: only its slow calls are in these figures" in out
    assert (
        json.loads(compare(capsys, "m:a", "m:b", str(tmp_path), "--format", "json")[1])["a"]["mean_ns"]
        is None
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((V1, "shop.pricing:pricy_v2"), 1, "(did you mean shop.pricing:price_v2?)"),
        ((V1, "nope:*"), 1, "nothing named 'nope:*' was measured in run new-run"),
        ((V1, "shop.pricing:*"), 2, "'shop.pricing:*' is 4 functions, name one: shop.pricing:"),
        ((V1, "*:twin"), 2, "shop.pricing:twin has 2 rows, choose one: --policy "),
        ((V1, "*_v1"), 2, "A and B are the same: shop.pricing:price_v1 in run new-run"),
        (
            (V1, "*:never"),
            1,
            "shop.pricing:never has 10 calls in run new-run and none was measured: raise its rate",
        ),
        ((V1, V2, "--run", "third"), 1, "no run 'third' in 'data'; the last ones are old-run, new-run"),
        ((V1, "third/*_v2"), 1, "no run 'third' in 'data'"),
        ((V1, ""), 1, "nothing named '' was measured"),
        ((V1, "\x1b[31m"), 1, "nothing named '\\x1b[31m' was measured"),
        ((V1,), 2, "the following arguments are required: B"),
        ((V1, V2, "--difference", "-5%"), 2, "--difference"),
        ((V1, V2, "--difference=-5%"), 2, "argument --difference: "),
        ((V1, V2, "--difference", "0"), 2, "a difference is above 0, given '0'"),
        ((V1, V2, "--difference", "lots"), 2, "argument --difference: "),
        ((V1, V2, "--format", "svg"), 2, "invalid choice: 'svg'"),
    ],
)
def test_errors_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, said: str
) -> None:
    given = arguments if len(arguments) < 2 else (*arguments[:2], "data", *arguments[2:])
    found, out, err = compare(capsys, *given)
    assert said in err
    assert (found, out, err.count("\n")) == (status, "", 1)


def test_no_data_and_damaged_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare(capsys, "a:b", "a:c", "none") == (1, "", "autoprof: compare: no folder 'none'\n")
    os.mkdir("data")
    nothing = "autoprof: no data in 'data': nothing was measured yet\n"
    assert compare(capsys, "a:b", "a:c", "data") == (1, "", nothing)
    Path("data/autoprof-1.db").write_bytes(b"garbage " * 100)
    damaged = "autoprof: 'data/autoprof-1.db' is not an SQLite file\n"
    assert compare(capsys, "a:b", "a:c", "data") == (1, "", damaged)


def test_a_damaged_store_beside_a_good_one_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "autoprof-1.other.db").write_bytes(b"garbage " * 100)
    status, out, err = compare(capsys, V1, V2, "data")
    assert (status, out[:7]) == (0, "faster:")
    assert err == "autoprof: 'data/autoprof-1.other.db' is not an SQLite file\n"
