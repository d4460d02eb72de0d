"""`python -m tests.soak [--minutes 30]`: full load for a long time; memory must stay flat and the store within its bound.

Not in CI. A program with four busy threads and an event loop runs under five policies at once. Every ten seconds it says
how much memory it has; its output folder is weighed as often. The first fifth of the time is warm-up; of what is left, the
medians of the first and the last third are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PERIOD_S = 10
GROWTH_BYTES = 2_000_000
STORE_BYTES = 8_000_000
SLACK_BYTES = 4_000_000
"""The write-ahead log and the pages that one transaction adds before the bound is looked at again."""

POLICY = f"""\
version: 1
env: prod
output: out
load: off
store: {{max_size: {STORE_BYTES // 1_000_000}MB}}
rules:
  - {{match: 'work:slow_*', policy: profile_if_slow, threshold: 5ms, env: [prod]}}
  - {{match: 'work:drawn', policy: flame_graph, every: 1m, duration: 1s, env: [prod]}}
  - {{match: 'work:kept', policy: profile_memory, rate: 1%, env: [prod]}}
  - {{match: 'work:handle*', policy: profile, rate: 1%}}
  - {{match: 'work:*', policy: profile_production}}
"""
WORK = """\
import asyncio, os, threading, time

def leaf(number):
    return number * 2

def drawn(number):
    return sum(leaf(each) for each in range(200))

def kept(number):
    return [str(each) for each in range(number % 50)]

def slow_query(number):
    time.sleep(0.006 if number % 50 == 0 else 0.0)
    return number

def fails(number):
    raise KeyError(number)

def items(number):
    for each in range(number % 20):
        yield leaf(each)

def make(number):
    def inner(other):
        return leaf(other) + number
    return inner

def handle(number):
    total = sum(items(number)) + make(number)(1) + len(kept(number)) + drawn(number)
    slow_query(number)
    try:
        fails(number)
    except KeyError:
        return total

async def handle_async(number):
    await asyncio.sleep(0)
    return handle(number)

def loop_of_calls(until, counts, index):
    number = 0
    while time.monotonic() < until:
        if number % 500 == 0:
            names = {"leaf": leaf}
            exec(f"def made_{number % 5000}(x):\\n    return leaf(x)", names)
            names[f"made_{number % 5000}"](1)
        handle(number)
        number += 1
    counts[index] = number

async def loop_of_tasks(until, counts):
    number = 0
    while time.monotonic() < until:
        await asyncio.gather(*[handle_async(number + each) for each in range(20)])
        number += 20
    counts["tasks"] = number

def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

def tell(until, period_s):
    while time.monotonic() < until:
        time.sleep(period_s)
        print(rss_bytes(), flush=True)

def main(seconds, period_s):
    until, counts = time.monotonic() + seconds, {}
    threads = [threading.Thread(target=loop_of_calls, args=(until, counts, each)) for each in range(4)]
    threads.append(threading.Thread(target=tell, args=(until, period_s)))
    for each in threads: each.start()
    asyncio.run(loop_of_tasks(until, counts))
    for each in threads: each.join()
    print("handled", sum(counts.values()), flush=True)
"""


def _folder_bytes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def judge(rss: list[int], stored: list[int], store_limit: int = STORE_BYTES + SLACK_BYTES) -> list[str]:
    """Return what is wrong with a run's readings; nothing: it holds."""
    rest = rss[len(rss) // 5 :]
    if len(rest) < 6:
        return [f"{len(rss)} readings are too few: give it more minutes"]
    third = len(rest) // 3
    before, after = statistics.median(rest[:third]), statistics.median(rest[-third:])
    wrong = []
    if after - before > GROWTH_BYTES:
        wrong.append(f"memory grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    if max(stored) > store_limit:
        wrong.append(
            f"the output folder had {max(stored) / 1e6:.1f} MB, its bound is {STORE_BYTES / 1e6:.0f} MB"
        )
    return wrong


def main() -> int:
    """Run the program, print its readings, return 1 if memory or the store grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {given.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="autoprof-soak-") as name:
        rss, stored = _run(Path(name), given.minutes * 60)
    wrong = judge(rss, stored)
    print("; ".join(wrong) or "memory is flat, the store within its bound")
    return 1 if wrong else 0


def _run(folder: Path, seconds: float) -> tuple[list[int], list[int]]:
    (folder / "work.py").write_text(WORK)
    (folder / "policy.yaml").write_text(POLICY)
    program = (
        f"from autoprof.bootstrap import boot; boot(); import work; work.main({seconds!r}, {PERIOD_S!r})"
    )
    paths = os.pathsep.join((str(folder), str(ROOT)))
    plain = {key: value for key, value in os.environ.items() if not key.startswith("AUTOPROF_")}
    environment = {**plain, "PYTHONPATH": paths, "AUTOPROF_CONFIG": "policy.yaml"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    rss: list[int] = []
    stored: list[int] = []
    began = time.monotonic()
    for line in process.stdout:
        if line.startswith("handled"):
            print(line.strip())
            continue
        rss.append(int(line))
        stored.append(_folder_bytes(folder / "out"))
        took_s = time.monotonic() - began
        print(f"{took_s:6.0f} s  rss {rss[-1] / 1e6:7.1f} MB  output {stored[-1] / 1e6:6.2f} MB", flush=True)
    if process.wait():
        raise SystemExit(f"the program ended with status {process.returncode}")
    shown = subprocess.run(
        [sys.executable, "-m", "autoprof", "report", str(folder / "out"), "--format", "text"],
        env={**plain, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    print("\n".join(shown.stdout.splitlines()[:25]))
    return rss, stored


if __name__ == "__main__":
    sys.exit(main())
