"""What autoprof adds to the start of Python: environments with and without it, by turns."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure

PAIRS = 200
_ROOT = Path(__file__).resolve().parents[2]
_FORBIDDEN = ("ssl", "asyncio", "socket", "pyinstrument", "psutil", "blinker")


def figures() -> Iterator[Figure]:
    """Measure `python -c pass`: without autoprof, with it unset, with a policy that matches nothing."""
    folder = tempfile.mkdtemp(prefix="autoprof-benchmark-")
    try:
        plain = _environment(os.path.join(folder, "plain"), install=False)
        ours = _environment(os.path.join(folder, "ours"), install=True)
        policy = os.path.join(folder, "policy.yaml")
        with open(policy, "w", encoding="utf-8") as file:
            file.write("version: 1\nrules:\n  - match: nothing.at.all:*\n    policy: profile\n")
        unset = dict(os.environ)
        unset.pop("AUTOPROF_CONFIG", None)
        unset["PYTHONDONTWRITEBYTECODE"] = "1"
        yield from _unset(plain, ours, unset)
        yield _set(ours, unset, {**unset, "AUTOPROF_CONFIG": policy})
        yield _loaded(ours, {**unset, "AUTOPROF_CONFIG": policy})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: str, *, install: bool) -> str:
    venv.create(folder, with_pip=True, symlinks=True)
    python = os.path.join(folder, "bin", "python")
    wanted = [str(_ROOT)] if install else ["pyyaml", "pyinstrument", "psutil", "blinker"]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, stdout=subprocess.DEVNULL)
    return python


def _seconds(python: str, environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([python, "-c", "pass"], env=environment, check=True)
    return time.perf_counter() - began


def _unset(plain: str, ours: str, environment: dict[str, str]) -> Iterator[Figure]:
    """Compare with an environment without autoprof, and with the same when some other package has a `.pth` file.

    From 3.13 on CPython imports `encodings.utf_8_sig` for the first `.pth` file of an environment, whatever is in it
    (Lib/site.py, `addpackage`): what others have paid for is not ours.
    """
    [site] = (Path(plain).parent.parent / "lib").glob("python*/site-packages")
    other = site / "other.pth"
    for name, text in (("unset: python -c pass, ratio", ""), ("  the same, beside another .pth", "# nothing\n")):
        if text:
            other.write_text(text, encoding="utf-8")
        without, with_it = [], []
        for pair in range(PAIRS):
            for python, out in ((plain, without), (ours, with_it))[:: 1 if pair % 2 else -1]:
                out.append(_seconds(python, environment))
        ratio = statistics.median(with_it) / statistics.median(without)
        note = f"{statistics.median(without) * 1000:.1f} ms without"
        yield Figure(name, ratio, "times", 1.03, note=note)


def _set(ours: str, unset: dict[str, str], environment: dict[str, str]) -> Figure:
    differences = []
    for _ in range(PAIRS // 4):
        off = _seconds(ours, unset)
        differences.append(_seconds(ours, environment) - off)
    return Figure(
        "set, nothing matches: added to the start", statistics.median(differences) * 1000, "ms", 25.0
    )


def _loaded(ours: str, environment: dict[str, str]) -> Figure:
    script = (
        f"import sys; print(sum(name in sys.modules for name in {_FORBIDDEN!r}), 'autoprof' in sys.modules)"
    )
    done = subprocess.run([ours, "-c", script], env=environment, check=True, capture_output=True, text=True)
    count, there = done.stdout.split()
    if there != "True":
        sys.exit("the policy was not in force: the start-up figures mean nothing")
    return Figure("set, nothing matches: heavy modules loaded", float(count), "modules", 0.0)
