"""Every view of the same numbers: right, complete, and safe whatever functions are called."""

from __future__ import annotations

import json as stdlib_json
import re
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from autoprof.reports import collapsed, html, json, model, speedscope, status, svg, text
from autoprof.store import Artefact, ProbeState, ReportData
from tests.stored import HOSTILE, NOW_NS, SECOND_NS, delta, no_open_writers, reader, stack, writer

__all__ = ["no_open_writers"]

SVG = "{http://www.w3.org/2000/svg}"
STACKS = [
    (("m:a (f.py:1)", "m:b (f.py:2)"), 60),
    (("m:a (f.py:1)", "m:c (f.py:3)"), 30),
    (("m:d (f.py:4)",), 10),
]


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    made = writer(tmp_path)
    root = "shop:price (/srv/shop/app.py:3)"
    made.write(
        [
            delta(
                calls=1000, durations=(1_000_000,) * 95 + (9_000_000,) * 5, samples=100, skipped={"nested": 4}
            ),
            delta(
                "shop.db:find",
                policy="profile_production",
                durations=(),
                memory_delta_bytes=-2048,
                discarded=3,
            ),
        ],
        [
            stack(root, "shop:tax (/srv/shop/app.py:9)", samples=70),
            stack(root, "json:dumps (/usr/lib/json.py:5)", samples=30),
            stack(
                "shop.db:find (/srv/shop/db.py:1)",
                target="shop.db:find",
                policy="profile_production",
                samples=5,
            ),
        ],
        [Artefact("shop:price", "r", "flame_graph", "flame_graph", "flame.svg", "svg", NOW_NS)],
        states=[ProbeState("shop.*:nope", "rule 2", "profile", "sample", "waiting", "matched nothing yet")],
        overhead_ns=5_000_000,
        now_ns=NOW_NS + SECOND_NS,
    )
    made.close(NOW_NS + 42 * SECOND_NS)
    return reader(tmp_path).select()


@pytest.fixture
def hostile(tmp_path: Path) -> ReportData:
    made = writer(tmp_path, HOSTILE[0])
    names = [name or "empty" for name in HOSTILE]
    made.write(
        [delta(name, rule=name, strategy=name, skipped={name: 1}, callees={name: 1}) for name in names],
        [stack(name, *names, target=name) for name in names]
        + [stack(*names, target="shop:price"), stack(*reversed(names), target="shop:price")],
        [Artefact(name, name, name, name, name, name, NOW_NS) for name in names],
        states=[ProbeState(name, name, name, name, name, name) for name in names],
        now_ns=NOW_NS,
    )
    made.close(NOW_NS)
    return reader(tmp_path).select()


def test_json_has_the_contracts_shape(data: ReportData) -> None:
    document = stdlib_json.loads(json.render(data))
    assert document["schema"] == 1
    assert document["run"] == "run-1"
    assert document["started_ns"] == NOW_NS
    assert document["ended_ns"] == NOW_NS + 42 * SECOND_NS
    assert document["dropped"] == 0
    first, second = document["probes"]
    assert set(first) == {
        "target",
        "rule",
        "policy",
        "strategy",
        "calls",
        "profiled",
        "skipped",
        "skipped_by",
        "discarded",
        "slow",
        "samples",
        "duration_ns",
        "estimated_total_ns",
        "memory_delta_bytes",
        "memory_blocks_delta",
        "memory_blocks_calls",
        "callees",
        "overhead_ns",
        "processes",
    }
    assert (first["target"], first["calls"], first["profiled"], first["skipped"]) == (
        "shop:price",
        1000,
        100,
        4,
    )
    assert first["skipped_by"] == {"nested": 4}
    assert first["estimated_total_ns"] == 1_400_000 * 1000
    assert first["processes"] == 1
    assert first["memory_delta_bytes"] is None
    assert first["callees"] is None
    assert abs(first["duration_ns"]["p50"] - 1_000_000) < 70_000
    assert abs(first["duration_ns"]["p99"] - 9_000_000) < 600_000
    assert first["duration_ns"]["max"] == 9_000_000
    assert second["duration_ns"] == {"p50": None, "p95": None, "p99": None, "max": None}
    assert second["estimated_total_ns"] is None
    assert second["memory_delta_bytes"] == -2048
    (process,) = document["processes"]
    assert {"pid", "host", "run", "started_ns", "ended_ns", "overhead_ns"} <= set(process)
    assert process["overhead_ns"] == 5_000_000


def test_no_quantile_is_above_the_maximum(tmp_path: Path) -> None:
    writer(tmp_path).write([delta(durations=(1_000_001,))], now_ns=NOW_NS)
    times = model.quantiles(reader(tmp_path).select().probes[0])
    assert times["max"] == 1_000_001
    assert all(value is not None and value <= 1_000_001 for value in times.values())


def test_text_says_what_was_measured(data: ReportData) -> None:
    shown = text.render(data)
    assert max(map(len, shown.splitlines())) <= 100
    assert "run run-1: 2027-01-15 08:00:00 to 2027-01-15 08:00:42 UTC, 42s" in shown
    line = next(line for line in shown.splitlines() if line.startswith("shop:price "))
    assert line.split()[:4] == ["shop:price", "profile", "1000", "100"]
    assert "skipped 4 (4 nested)" in shown
    assert "70.0%  shop:tax (app.py:9)" in shown
    assert "70.0%  shop:price > shop:tax" in shown
    assert "memory -2.05KB" in shown
    assert "flame.svg" in shown


def test_text_cannot_steer_a_terminal(hostile: ReportData) -> None:
    for shown in (text.render(hostile), status.render(hostile)):
        assert all(character == "\n" or character.isprintable() for character in shown)
    assert max(map(len, text.render(hostile).splitlines())) <= 100
    assert "\\x1b[31mred" in text.render(hostile)


def test_status_shows_states_and_processes(data: ReportData) -> None:
    shown = status.render(data)
    assert "run run-1: 1 process, 0 running" in shown
    assert re.search(r"waiting +0 +0 +0 +profile +shop\.\*:nope +matched nothing yet", shown)
    assert re.search(r"- +1000 +100 +4 +profile +shop:price", shown)


def test_collapsed_lines(data: ReportData) -> None:
    assert collapsed.render(data).splitlines() == [
        "shop.db:find [profile_production];shop.db:find (/srv/shop/db.py:1) 5",
        "shop:price (/srv/shop/app.py:3);json:dumps (/usr/lib/json.py:5) 30",
        "shop:price (/srv/shop/app.py:3);shop:tax (/srv/shop/app.py:9) 70",
    ]


def test_collapsed_lines_keep_their_form(hostile: ReportData) -> None:
    total = 0
    for line in collapsed.render(hostile).splitlines():
        frames, samples = line.rsplit(" ", 1)
        total += int(samples)
        assert all(character.isprintable() for character in frames)
    assert total == sum(sums[0] for stacks in hostile.stacks.values() for sums in stacks.values())
    assert "semi,colon,frames" in collapsed.render(hostile)


def frames_of(content: str) -> dict[str, dict[str, float]]:
    """Return x, y and width of every frame of a graph by the first line of its tooltip."""
    found = {}
    for group in ElementTree.fromstring(content).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None and title.text is not None and rect is not None
        found[title.text.split("\n")[0]] = {name: float(rect.attrib[name]) for name in ("x", "y", "width")}
    return found


def test_svg_widths_are_proportional() -> None:
    frames = frames_of(svg.render_stacks(STACKS, title="t", unit="samples"))
    assert frames["all"] == {"x": 0, "y": 58, "width": 1200}
    assert frames["m:a (f.py:1)"]["width"] == 1080
    assert frames["m:b (f.py:2)"]["width"] == 720
    assert frames["m:c (f.py:3)"] == {"x": 720, "y": 92, "width": 360}
    assert frames["m:d (f.py:4)"]["x"] == 1080


def test_svg_is_the_same_each_time_and_colours_follow_modules() -> None:
    once, again = svg.render_stacks(STACKS, title="t"), svg.render_stacks(list(reversed(STACKS)), title="t")
    assert once == again
    assert len(set(re.findall(r'fill="(#\w+)"', once))) >= 3


def test_svg_speaks_its_unit() -> None:
    assert "60ns, 60.00%" in svg.render_stacks(STACKS, title="t")
    assert "60 samples, 60.00%" in svg.render_stacks(STACKS, title="t", unit="samples")
    assert "1KB, 100.00%" in svg.render_stacks([(("a",), 1000)], title="t", unit="bytes")


def test_svg_leaves_out_what_nobody_could_see() -> None:
    many = [((f"m:f{number}",), 1 if number else 10_000_000) for number in range(1000)]
    drawn = svg.render_stacks(many, title="t")
    assert len(frames_of(drawn)) == 2
    assert "999 frames too narrow to draw" in drawn


def test_svg_is_bounded() -> None:
    many = [(tuple(f"m:{number}.{depth}" for depth in range(3)), 1) for number in range(3000)]
    assert len(frames_of(svg.fragment(many, title="t", unit="samples", frames_limit=1000))) <= 1000


def test_svg_of_endless_recursion() -> None:
    drawn = svg.render_stacks([(tuple(["m:f"] * 50_000), 5)], title="t")
    assert "stacks cut at 256 of 50000 frames" in drawn.replace("50,000", "50000")
    assert len(list(ElementTree.fromstring(drawn).iter(f"{SVG}g"))) == 257


@pytest.mark.parametrize("stacks", [[], [((), 0)], [((), 5)]])
def test_graphs_of_nothing(stacks: list[tuple[tuple[str, ...], int]]) -> None:
    ElementTree.fromstring(svg.render_stacks(stacks, title=""))
    assert "<svg" in html.render_stacks(stacks, title="")
    assert stdlib_json.loads(speedscope.render_stacks(stacks, title=""))["activeProfileIndex"] == 0


def test_svg_is_well_formed_whatever_the_names(hostile: ReportData) -> None:
    drawn = svg.render(hostile)
    root = ElementTree.fromstring(drawn)
    assert [element.tag for element in root.iter() if element.tag == f"{SVG}script"] == [f"{SVG}script"]
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any("<script>alert(1)</script>&amp;]]>" in title for title in titles)
    assert any("\\x1b[31mred" in title for title in titles)


def test_html_runs_and_loads_nothing_foreign(hostile: ReportData) -> None:
    page = html.render(hostile)
    assert page.count("<script") == 2
    assert "<script>alert" not in page
    page.encode()
    for pattern in (r"\bsrc\s*=", r'href="(?!#t\d)', r"@import", r"url\("):
        assert not re.search(pattern, page), pattern
    assert set(re.findall(r'https?://[^"\s<>]+', page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
    }


def test_html_has_every_row(data: ReportData) -> None:
    page = html.render(data)
    assert page.count("<tr data-target=") == 2
    assert "<td data-v=1000>1,000</td>" in page
    assert 'title="rule: rule 1"' in page
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="autoprof-flame"') == 2
    assert "flame.svg" in page


def test_html_embeds_only_so_many_graphs(tmp_path: Path) -> None:
    targets = [f"m:f{number}" for number in range(html.GRAPHS_LIMIT + 5)]
    stacks = [stack(target, target=target) for target in targets]
    writer(tmp_path).write([delta(target) for target in targets], stacks, now_ns=NOW_NS)
    page = html.render(reader(tmp_path).select())
    assert page.count("<svg ") == html.GRAPHS_LIMIT
    assert "5 more targets" in page


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the schema that speedscope publishes, from its npm package."""
    folder = tmp_path_factory.mktemp("speedscope")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so speedscope's schema can't be fetched")
    command = [npm, "pack", "--silent", "speedscope@1.25.0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if done.returncode:
        pytest.skip(f"the npm registry can't be reached: {done.stderr.decode(errors='replace')[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        file = package.extractfile("package/dist/release/file-format-schema.json")
        assert file is not None
        return stdlib_json.load(file)


@pytest.mark.network
def test_speedscope_files_obey_the_published_schema(
    schema: Any, data: ReportData, hostile: ReportData
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for content in (
        speedscope.render(data),
        speedscope.render(hostile),
        speedscope.render_stacks(STACKS, title="one call"),
        speedscope.render_stacks([], title="none", unit="samples"),
    ):
        jsonschema.validate(stdlib_json.loads(content), schema)
    with pytest.raises(jsonschema.ValidationError):  # it does notice what other tools get wrong
        jsonschema.validate(
            {**stdlib_json.loads(speedscope.render(data)), "activeProfileIndex": None}, schema
        )


def test_speedscope_profiles(data: ReportData) -> None:
    document = stdlib_json.loads(speedscope.render(data))
    assert document["activeProfileIndex"] == 0
    frames = document["shared"]["frames"]
    assert {"name": "shop:tax", "file": "/srv/shop/app.py", "line": 9} in frames
    first, second = document["profiles"]
    assert (first["name"], second["name"]) == ("shop:price", "shop.db:find [profile_production]")
    assert first["endValue"] == sum(first["weights"]) == 100
    assert [[frames[index]["name"] for index in sample] for sample in first["samples"]] == [
        ["shop:price", "json:dumps"],
        ["shop:price", "shop:tax"],
    ]


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("m:f (/a/b.py:12)", ("m:f", "/a/b.py", 12)),
        ("m:f", ("m:f", "", None)),
        ("m:f (x)", ("m:f (x)", "", None)),
        ("m:f (g (h) (C:\\a.py:3)", ("m:f (g (h)", "C:\\a.py", 3)),
        ("m:<lambda> (<string>:1)", ("m:<lambda>", "<string>", 1)),
        ("", ("", "", None)),
        (")", (")", "", None)),
        ("m:f (a:99999999999)", ("m:f (a:99999999999)", "", None)),
    ],
)
def test_labels_are_taken_apart(label: str, parts: tuple[str, str, int | None]) -> None:
    assert model.split_label(label) == parts


def test_a_clock_gone_wild_is_no_reason_to_have_no_report(tmp_path: Path) -> None:
    made = writer(tmp_path, started_ns=-(10**18))
    made.write([delta()], [stack("a")], now_ns=2**62)
    made.close(2**62)
    data = reader(tmp_path).select()
    for view in (text, html, svg, json, collapsed, speedscope, status):
        assert view.render(data)  # type: ignore[attr-defined]


def test_shares_are_shares_of_time() -> None:
    """A thread that waits is looked at more often than one that computes."""
    from autoprof.reports.model import row_stacks
    from autoprof.store_records import ReportData

    data = ReportData("r")
    key = ("m:f", "profile", "sample")
    data.stacks[key] = {("computes",): [10, 600], ("waits",): [90, 390], ("seen once",): [1, 0]}
    assert dict(row_stacks(data, key)) == {("computes",): 61, ("waits",): 40, ("seen once",): 1}
    data.stacks[key] = {("a",): [10, 0], ("b",): [90, 0]}
    assert row_stacks(data, key) == [(("b",), 90), (("a",), 10)]
