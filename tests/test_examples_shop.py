"""The example shop runs as it is, gives the same pages every time, and its load generator tells the truth."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flask")

SHOP = Path(__file__).resolve().parent.parent / "examples" / "shop"
PAGES = 120


def environment() -> dict[str, str]:
    """The environment of a plain run: warnings are errors, nothing of autoprof is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOPROF")}
    return kept | {"PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the example's folder to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=SHOP, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def run_main(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the whole shop in one command."""
    return run("main.py", "--requests", str(PAGES), *arguments)


def digest(done: subprocess.CompletedProcess[str]) -> str:
    """Read the digest of a good run from its summary."""
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert f"{PAGES} answers" in done.stdout and "0 errors" in done.stdout
    found = re.search(r"^digest ([0-9a-f]{16})$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return found[1]


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run `python -m shop.serve` on a free port and give its address; it must close when told to."""
    command = [sys.executable, "-m", "shop.serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, cwd=SHOP, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err, out) == (0, "", "the shop is closed\n")


def test_it_never_mentions_the_profiler() -> None:
    sources = [path for kind in ("*.py", "*.html", "*.txt", "*.md") for path in SHOP.rglob(kind)]
    assert len(sources) > 20
    assert [path.name for path in sources if "autoprof" in path.read_text("utf-8").lower()] == []


def test_same_seed_same_pages_whoever_asks() -> None:
    alone = digest(run_main("--workers", "1"))
    assert digest(run_main("--workers", "4")) == alone
    assert digest(run_main("--apart")) == alone


def test_another_seed_other_pages() -> None:
    assert digest(run_main("--seed", "2")) != digest(run_main("--seed", "1"))


def test_every_kind_of_page_is_asked_for() -> None:
    out = run_main().stdout
    for kind in (
        "product",
        "search",
        "category",
        "home",
        "basket",
        "place",
        "order",
        "offers",
        "report",
        "csv",
    ):
        assert re.search(rf"^  {kind} +\d+ x ", out, re.MULTILINE), kind


def test_a_given_database_is_kept_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    first = digest(run_main("--database", str(path)))
    assert path.stat().st_size > 100_000
    assert digest(run_main("--database", str(path))) == first
    other_seed = run_main("--database", str(path), "--seed", "7")
    assert (other_seed.returncode, other_seed.stdout) == (2, "")
    assert other_seed.stderr == f"shop: {path}: made from seed 1, not 7\n"


@pytest.mark.parametrize("content", [b"hello, this is a text\n" * 99, b"SQLite format 3\0" + b"\1" * 2000])
def test_somebody_elses_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    done = run_main("--database", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"shop: {path}: ") and "Traceback" not in done.stderr
    assert path.read_bytes() == content


def test_server_and_load_are_two_programs() -> None:
    with server() as url:
        done = run("-m", "shop.load", "--url", url, "--requests", str(PAGES))
        assert digest(done) == digest(run_main())


def test_load_says_when_nobody_answers() -> None:
    with server() as url:
        pass
    done = run("-m", "shop.load", "--url", url, "--requests", "9")
    assert done.returncode == 1
    assert "0 answers" in done.stdout and "9 errors" in done.stdout
    assert "ConnectionRefusedError" in done.stdout and "… and 4 more errors" in done.stdout
    assert done.stderr == ""


def test_load_says_when_answers_are_wrong(tmp_path: Path) -> None:
    """An empty folder behind a file server: every page is missing."""
    script = (
        "import http.server, functools, subprocess, sys, threading\n"
        f"handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory={str(tmp_path)!r})\n"
        "handler.func.log_message = lambda *_: None\n"
        "with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as web:\n"
        "    threading.Thread(target=web.serve_forever, daemon=True).start()\n"
        "    url = f'http://127.0.0.1:{web.server_port}'\n"
        "    done = subprocess.run([sys.executable, '-m', 'shop.load', '--url', url, '--requests', '20'])\n"
        "    web.shutdown()\n"
        "sys.exit(done.returncode)\n"
    )
    done = run("-c", script)
    assert done.returncode == 1
    assert re.search(r"error: \w+ /\S+: status (404|501) instead of 20", done.stdout), done.stdout


def test_load_stops_when_the_time_is_up() -> None:
    done = run("main.py", "--requests", "100000", "--seconds", "0.5")
    assert done.returncode == 1
    assert re.search(r"the time was up: \d+ requests not sent", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "http://example.com"], "an http address on this machine, not 'http://example.com'"),
        (["--url", "https://127.0.0.1"], "an http address on this machine"),
        (["--url", "http://127.0.0.1:port"], "an http address on this machine"),
        (["--requests", "0"], "between 1 and 1e+06, not 0"),
        (["--requests", "many"], "invalid"),
        (["--workers", "1000"], "between 1 and 64, not 1000"),
        (["--seconds", "nan"], "between 0.1 and 3600, not nan"),
    ],
)
def test_load_refuses(arguments: list[str], complaint: str) -> None:
    done = run("-m", "shop.load", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr and "Traceback" not in done.stderr
