"""The floors, the size of modules, the weight of the start: held by tests, and tests that the checks can fail."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Environment

PACKAGE = REPOSITORY / "autoprof"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "startup" not in path.parts)
HEAVY = ("dataclasses", "typing", "inspect", "logging", "pathlib", "asyncio", "ssl", "socket", "sqlite3")
HEAVY += ("subprocess", "tempfile", "json", "psutil", "blinker", "pyinstrument", "ast", "contextlib")
# Without a policy file these modules are all of autoprof that a start loads.
START = (
    "bootstrap",
    "program",
    "frameless",
    "transform",
    "mainhook",
    "importhook",
    "policy",
    "config",
    "session",
)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the copy of the package in a folder."""
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as c; c()",
        "--no-cache",
    ]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)}
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its configuration, to be spoilt."""
    pytest.importorskip("importlinter")
    shutil.copytree(PACKAGE, tmp_path / "autoprof", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_floors_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("gate", "import autoprof.session"),
        ("policy", "import autoprof.config"),
        ("units", "import autoprof.gate"),
        ("session", "import yaml"),
        ("cli", "import sqlite3"),
        ("probe", "import blinker"),
        ("gate", "import psutil"),
        ("sampler", "import pyinstrument"),
        ("config", "from autoprof import status"),
    ],
)
def test_the_check_can_fail(copy: Path, module: str, line: str) -> None:
    path = copy / "autoprof" / f"{module}.py"
    path.write_text(f"{path.read_text()}\n{line}\n")
    if line.startswith("from autoprof import"):
        assert list(_imports_of_the_root(path))
        return
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def _names_of_the_door() -> set[str]:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value)) - {"signals", "testing"}
    raise AssertionError("no __all__")


def _imports_of_the_root(path: Path) -> Iterator[str]:
    """Yield what a module takes from the package's door: its names, not its submodules."""
    door = _names_of_the_door()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "autoprof" and not node.level:
            yield from (alias.name for alias in node.names if alias.name in door)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name == "autoprof")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_inside_imports_the_door(path: Path) -> None:
    if path.name != "__init__.py":
        assert not list(_imports_of_the_root(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    """At most 400 lines and a docstring; no drawer for whatever does not fit elsewhere."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))
    assert path.stem not in ("utils", "util", "misc", "common", "manager", "helpers")


def test_modules_of_tests_stay_readable() -> None:
    """At most 400 lines, too."""
    paths = sorted((REPOSITORY / "tests").rglob("*.py"))
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in paths}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_stay_readable(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("name", START)
def test_the_start_path_imports_nothing_heavy(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    assert not found & set(HEAVY)


def test_nothing_heavy_is_loaded_by_a_policy_that_matches_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\nrules: [{match: 'nowhere:*', policy: profile}]\n")
    text = "import sys; print(*sys.modules)"
    plain = set(environment.run("-c", text, cwd=tmp_path).stdout.split())
    ours = set(
        environment.run("-c", text, cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"}).stdout.split()
    )
    assert not (ours - plain) & {
        "ssl",
        "asyncio",
        "socket",
        "pyinstrument",
        "psutil",
        "blinker",
        "logging",
        "sqlite3",
    }
    assert "autoprof.session" in ours


def test_importing_the_package_loads_nothing_else(environment: Environment, tmp_path: Path) -> None:
    text = "import sys; before = set(sys.modules); import autoprof; print(*(set(sys.modules) - before))"
    loaded = set(environment.run("-c", text, cwd=tmp_path).stdout.split())
    assert loaded - {"__future__"} == {"autoprof"}


def test_no_machine_is_named() -> None:
    """No registry, mirror or machine path in what is published."""
    for name in ("pyproject.toml", ".ci/run", "tests/__main__.py"):
        text = (REPOSITORY / name).read_text()
        assert not re.search(r"(?i)index-url|registry\.|pypi\.org|/root/|/work/|/home/", text), name


def test_extras_are_complete() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"test", "dev"} <= set(extras)


def test_thread_primitives_come_from_one_place() -> None:
    """gevent and eventlet replace what is in `_thread` and `time.sleep`; ours must not be theirs."""
    for path in MODULES:
        imported = {
            (node.module, alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, "")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        modules = {module for module, _ in imported}
        if path.stem not in ("primitives", "interpreters"):
            assert "_thread" not in modules, path
        assert ("time", "sleep") not in imported and "time.sleep(" not in path.read_text(), path
