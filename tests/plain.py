"""Run a program twice, plain and hooked, and compare everything that can be seen."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import Environment


def same_as_plain(
    environment: Environment,
    *arguments: str,
    cwd: Path,
    covers: str = "__main__,shop",
    backend: str = "splice",
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    rewritten: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Return the plain run, after asserting that output, errors and status of the hooked run are the same.

    Args:
        rewritten: whether the program prints what a function gives that returns "PLAIN".
    """
    env = {"PYTHONDONTWRITEBYTECODE": "1", **(env or {})}  # the second run must not find files of the first
    plain = environment.run(*arguments, cwd=cwd, env=env, input=input)
    ours = {"FAKE_COVERS": covers, "FAKE_BACKEND": backend}
    hooked = environment.run(*arguments, cwd=cwd, env={**env, **ours}, input=input)
    assert "REWRITTEN" not in plain.stdout, plain.stdout
    if rewritten:
        assert "PLAIN" in plain.stdout, plain.stderr
        assert "REWRITTEN" in hooked.stdout, f"{hooked.stdout}\n{hooked.stderr}"
    difference = [
        *_difference(plain.stdout, hooked.stdout.replace("REWRITTEN", "PLAIN")),
        *_difference(plain.stderr, hooked.stderr),
    ]
    assert not difference, "\n".join(["not as in a plain run:", *difference])
    assert hooked.returncode == plain.returncode, f"status {hooked.returncode}, plain {plain.returncode}"
    return plain


def _difference(plain: str, hooked: str) -> list[str]:
    return list(
        difflib.unified_diff(normal(plain).splitlines(), normal(hooked).splitlines(), lineterm="", n=0)
    )


def normal(text: str) -> str:
    """Return the text without addresses, process ids and the like."""
    return re.sub(r"0x[0-9a-f]+", "0x", text)
