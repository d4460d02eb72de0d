"""Run a truth program in a process of its own, under a policy or without, and read what autoprof has reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).resolve().parent / "programs"

_HEAD = """\
version: 1
output: ./out
load: {cpu: off, memory: off}
budget: off
rules:
"""


class Run:
    """A folder in which one program runs.

    Args:
        folder: made if need be; the program is copied into it, alone.
        program: the name of a file in `programs/`, without its suffix.
        rules: the policy's rules as YAML flow mappings; none: the program runs without autoprof.
    """

    def __init__(self, folder: Path, program: str, *rules: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        shutil.copy(PROGRAMS / f"{program}.py", folder / "program.py")
        self._profiled = bool(rules)
        (folder / "policy.yaml").write_text(_HEAD + "".join(f"  - {{{rule}}}\n" for rule in rules))

    def __call__(self, *arguments: object, timeout_s: float = 120) -> Any:
        """Run the program; return the JSON it prints, None if it prints nothing.

        Raises:
            RuntimeError: it failed, or something was said on its stderr.
        """
        profiled = ("-m", "autoprof", "run", "-c", "policy.yaml") if self._profiled else ()
        done = self._python(*profiled, "program.py", *map(str, arguments), timeout_s=timeout_s)
        if done.returncode or done.stderr:
            raise RuntimeError(f"{self.folder}: exit {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout else None

    def report(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the JSON report, by target."""
        found = self._report("json")
        return {row["target"]: row for row in json.loads(found)["probes"]}

    def stacks(self, target: str) -> list[tuple[list[str], int]]:
        """Return (frames root first, samples) below one target, from the collapsed report."""
        found = []
        for line in self._report("collapsed", "--target", target).splitlines():
            stack, _, count = line.rpartition(" ")
            found.append((stack.split(";"), int(count)))
        return found

    def samples_below(self, target: str, parts: list[str]) -> tuple[dict[str, float], int]:
        """Return how many samples each part has, given by name in `program.py`, and how many the target has."""
        counts = dict.fromkeys(parts, 0.0)
        total = 0
        for frames, samples in self.stacks(target):
            total += samples
            for part in parts:
                counts[part] += samples * any(frame.startswith(f"__main__:{part} ") for frame in frames)
        return counts, total

    def files(self, pattern: str) -> list[Path]:
        """Return the artefact files of one form."""
        return sorted((self.folder / "out").rglob(pattern))

    def _report(self, format_: str, *options: str) -> str:
        done = self._python("-m", "autoprof", "report", "out", "--format", format_, *options, timeout_s=60)
        if done.returncode:
            raise RuntimeError(f"{self.folder}: no report\n{done.stderr}")
        return done.stdout

    def _python(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        ours = ("AUTOPROF_", "PYTHON", "COV_", "COVERAGE_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
