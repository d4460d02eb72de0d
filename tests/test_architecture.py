"""The floors hold, and the check of the floors can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "autoprof"
LINTER = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
LINES_MAX = 400


def _modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "startup" not in path.parts]


def test_modules_stay_short() -> None:
    long = {
        path.name: count for path in _modules() if (count := len(path.read_text().splitlines())) > LINES_MAX
    }
    assert not long


def test_nothing_inside_imports_the_package_root() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    wrong = []
    for path in _modules():
        if path == PACKAGE / "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "autoprof":
                wrong += [f"{path.name}: {each.name}" for each in node.names if each.name not in names]
            elif isinstance(node, ast.Import):
                wrong += [f"{path.name}: import autoprof" for each in node.names if each.name == "autoprof"]
    assert not wrong


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    assert LINTER is not None
    return subprocess.run([LINTER, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(
    LINTER is None, reason="import-linter is a development dependency, installed for one version"
)
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("gate.py", "from autoprof import session"),
        ("calls.py", "import yaml"),
        ("probe.py", "import blinker"),
        ("session.py", "import sqlite3"),
    ],
)
def test_the_check_of_the_floors_fails_when_a_floor_is_broken(module: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(
        PACKAGE, tmp_path / "autoprof", ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / "autoprof" / module
    broken.write_text(f"{broken.read_text()}\n\ndef _wrong() -> None:\n    {line}\n")
    done = _lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
