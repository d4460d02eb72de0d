"""The command line: what it prints where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprof import cli
from autoprof.store import StoreWriter
from tests.stored import HOUR_NS, SECOND_NS, delta, no_open_writers, stack, writer

__all__ = ["no_open_writers"]

REPOSITORY = Path(__file__).parents[1]
POLICY = "version: 1\nrules:\n  - {match: 'shop:*', policy: profile}\n"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a program."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUTOPROF_")}
    clean |= {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = [sys.executable, "-m", "autoprof", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean, timeout=120, check=False)


def filled(folder: Path | str, run: str = "run-1", age_ns: int = 0, **more: object) -> StoreWriter:
    """Make a store with one process that has just ended."""
    now_ns = time.time_ns() - age_ns
    made = writer(folder, run, started_ns=now_ns - SECOND_NS, **more)
    made.write(
        [delta(), delta("db:find")], [stack("shop:price (a.py:1)", "m:f (b.py:2)", samples=9)], now_ns=now_ns
    )
    made.close(now_ns)
    return made


def test_a_report_of_the_default_folder(tmp_path: Path) -> None:
    filled("autoprof-data")
    done = run("report")
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop:price" in done.stdout


@pytest.mark.parametrize("form", ["html", "text", "json", "speedscope", "collapsed", "svg"])
def test_every_format_goes_to_stdout_or_a_file(
    tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    filled("data")
    assert cli.main(["report", "data", "--format", form]) == 0
    shown = capfd.readouterr()
    assert (shown.err, "price" in shown.out) == ("", True)
    assert cli.main(["report", "data", "--format", form, "-o", "out.file"]) == 0
    assert capfd.readouterr() == ("", "")
    assert Path("out.file").read_text("utf-8") == shown.out
    assert sorted(os.listdir()) == ["data", "out.file"]


def test_several_folders_are_one_report() -> None:
    filled("one")
    filled("two")
    done = run("report", "one", "two", "--format", "json")
    assert json.loads(done.stdout)["probes"][0]["calls"] == 20


def test_where_the_data_is(tmp_path: Path) -> None:
    filled("from-policy")
    Path("policy.yaml").write_text("version: 1\noutput: ./from-policy\nrules: []\n")
    assert run("report", AUTOPROF_CONFIG="policy.yaml").returncode == 0
    assert run("report", AUTOPROF_CONFIG="policy.yaml", AUTOPROF_OUTPUT="nowhere").returncode == 1
    assert run("report", AUTOPROF_OUTPUT="from-policy").returncode == 0
    done = run("report", "from-policy", AUTOPROF_CONFIG="missing.yaml")
    assert done.returncode == 0


def test_a_bad_policy_does_not_keep_a_report_from_its_default_folder() -> None:
    filled("autoprof-data")
    Path("bad.yaml").write_text("version: one\n")
    done = run("report", AUTOPROF_CONFIG="bad.yaml")
    assert done.returncode == 0
    assert "bad.yaml:1:" in done.stderr


def test_runs_are_chosen() -> None:
    filled("d", "first-run", age_ns=60 * SECOND_NS)
    filled("d", "second-run")
    for asked, found in (
        ("last", "second-run"),
        ("first-run", "first-run"),
        ("first", "first-run"),
        ("all", "all"),
    ):
        assert json.loads(run("report", "d", "--format", "json", "--run", asked).stdout)["run"] == found
    done = run("report", "d", "--run", "third")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "autoprof: no run 'third' in 'd'; the last ones are first-run, second-run\n"


def test_since_and_target() -> None:
    filled("d", age_ns=5 * HOUR_NS)
    assert run("report", "d", "--since", "6h").returncode == 0
    done = run("report", "d", "--since", "1h")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no data in 'd'" in done.stderr
    shown = json.loads(run("report", "d", "--format", "json", "--target", "db:*").stdout)
    assert [probe["target"] for probe in shown["probes"]] == ["db:find"]
    done = run("report", "d", "--target", "nope:*")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--target nope:*" in done.stderr


@pytest.mark.parametrize("form", ["svg", "collapsed", "speedscope"])
def test_no_stacks_is_no_data(form: str) -> None:
    made = writer("d")
    made.write([delta()], now_ns=time.time_ns())
    made.close(time.time_ns())
    done = run("report", "d", "--format", form)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no stacks were sampled" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["report"], 1, "autoprof: no data in 'autoprof-data': nothing was measured yet"),
        (["status"], 1, "autoprof: no data in 'autoprof-data': nothing was measured yet"),
        (["report", "nowhere"], 1, "autoprof: report: no folder 'nowhere'"),
        (["report", "--format", "pprof"], 2, "autoprof: report: --format pprof is not built yet"),
        (["report", "--format", "pdf"], 2, "invalid choice: 'pdf'"),
        (
            ["report", "--since", "1 fortnight"],
            2,
            "argument --since: not a unit of a duration, given '1 fortnight'",
        ),
        (["report", "--sinc", "1h"], 2, "unrecognized arguments: --sinc"),
        (["report", "--format"], 2, "argument --format: expected one argument"),
        (["top"], 2, "autoprof: 'top' is not built yet"),
        (["diff", "a", "b"], 2, "autoprof: 'diff' is not built yet"),
        (["schema", "x"], 2, "unrecognized arguments: x"),
        ([], 2, "no command given"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["check"], 2, "the following arguments are required: FILE"),
        (["check", "nowhere.yaml"], 1, "nowhere.yaml: No such file or directory"),
        (["explain", "policy.yaml", "no-colon"], 2, "a target is written module:function"),
        (["report", "\x1b[31m"], 1, "no folder '\\x1b[31m'"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, said: str) -> None:
    Path("policy.yaml").write_text(POLICY)
    done = run(*arguments)
    assert said in done.stderr
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)


def test_check_explain_and_plan() -> None:
    Path("policy.yaml").write_text(POLICY)
    Path("bad.yaml").write_text("version: 1\nrules:\n  - {match: 'a:*', policy: profil}\n  - {match: 3}\n")
    assert run("check", "policy.yaml").returncode == 0
    done = run("check", "bad.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert all(line.startswith("bad.yaml:") for line in done.stderr.splitlines())
    assert run("explain", "policy.yaml", "shop:price").returncode == 0
    done = run("explain", "policy.yaml", "other:f")
    assert done.returncode == 1
    assert "other:f" in done.stdout
    Path("shop.py").write_text("def price(): pass\n")
    assert "shop:price" in run("plan", "policy.yaml", "shop").stdout


def test_status() -> None:
    filled("autoprof-data", env="prod")
    done = run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 process, 0 running, environment prod" in done.stdout
    assert "shop:price" in done.stdout


def test_doctor() -> None:
    Path("policy.yaml").write_text(POLICY)
    done = run("doctor")
    assert done.returncode == 1
    assert "AUTOPROF_CONFIG is not set" in done.stdout
    assert sys.version.split()[0] in done.stdout
    done = run("doctor", AUTOPROF_CONFIG="policy.yaml", AUTOPROF_ENV="prod")
    assert "policy.yaml: 1 rule, environment prod" in done.stdout
    assert re.search(
        r"^load      cpu: pauses above 80% of the (machine|container)'s .* CPUs?, goes", done.stdout, re.M
    )
    assert re.search(
        r"^          memory: pauses above 90% of the .*; [0-9.]+% is in use now$", done.stdout, re.M
    )
    Path("bad.yaml").write_text("version: 1\nrule: []\n")
    done = run("doctor", AUTOPROF_CONFIG="bad.yaml")
    assert done.returncode == 1
    assert "rejected: " in done.stdout and "bad.yaml:2:1:" in done.stdout  # absolute where autoprof is live


def test_run_is_left_to_its_program() -> None:
    Path("program.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)")
    Path("policy.yaml").write_text(POLICY)
    done = run("run", "-c", "policy.yaml", "program.py", "--format", "x", "-o")
    assert (done.returncode, done.stdout) == (7, "['--format', 'x', '-o']\n")


def test_a_report_does_not_become_the_last_run() -> None:
    Path("policy.yaml").write_text("version: 1\nrules:\n  - {match: 'json:*', policy: profile, rate: 1.0}\n")
    Path("program.py").write_text("import json; json.dumps([1])")
    assert run("run", "-c", "policy.yaml", "program.py").returncode == 0
    first = run("report", "--format", "json", AUTOPROF_CONFIG="policy.yaml").stdout
    assert json.loads(first)["probes"][0]["calls"] == 1
    assert json.loads(run("report", "--format", "json", AUTOPROF_CONFIG="policy.yaml").stdout) == json.loads(
        first
    )


def test_output_files_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.txt"
    target.write_text("old")
    os.link(target, tmp_path / "old-copy")
    cli.write_file(str(target), b"new")
    assert (target.read_text(), (tmp_path / "old-copy").read_text()) == ("new", "old")
    with pytest.raises(OSError):
        cli.write_file(str(tmp_path / "none" / "report.txt"), b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        cli.write_file(str(tmp_path / "folder"), b"new")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(os.name != "posix", reason="links and devices are POSIX ones")
def test_output_through_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    cli.write_file(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    cli.write_file(os.devnull, b"new")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_an_output_that_cannot_be_written() -> None:
    filled("d")
    done = run("report", "d", "-o", "none/report.txt")
    assert (done.returncode, done.stderr) == (
        2,
        "autoprof: cannot write 'none/report.txt': No such file or directory\n",
    )


def test_a_terminal_that_knows_only_ascii_and_a_closed_pipe() -> None:
    made = writer("d")
    made.write([delta("日本:語\udc80")], now_ns=time.time_ns())
    made.close(time.time_ns())
    assert "日本:語" in run("report", "d", PYTHONUTF8="1").stdout
    done = run("report", "d", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "autoprof", "report", "d"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_a_store_that_cannot_be_read_is_one_line() -> None:
    Path("d").mkdir()
    Path("d/autoprof-1.db").write_bytes(b"garbage " * 100)
    done = run("report", "d")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "autoprof: 'd/autoprof-1.db' is not an SQLite file\n"
    filled("d", "next")
    done = run("report", "d")
    assert done.returncode == 0
    assert "not an SQLite file" in done.stderr


def test_internal_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(cli, "_report", broken)
    assert cli.main(["report"]) == 2
    assert (
        capsys.readouterr().err == "autoprof: internal error, please report it: ZeroDivisionError: surprise\n"
    )
    monkeypatch.setenv("AUTOPROF_STRICT", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["report"])


def test_an_interrupted_command_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_status", interrupted)
    assert cli.main(["status"]) == 130


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in (
        "run",
        "check",
        "explain",
        "plan",
        "status",
        "top",
        "report",
        "compare",
        "diff",
        "schema",
        "doctor",
    ):
        assert f"    {command} " in done.stdout
