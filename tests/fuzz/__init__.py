"""Policy files nobody would write: made by a grammar and by mutation of config/*.yaml, from a seed."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from autoprof import config
from autoprof.errors import PolicyErrors
from autoprof.policy import Policy

SECRET = "s3cr3t-9f1c-never-told"
ENVIRONMENT = {"SECRET": SECRET, "AUTOPROF_ENV": "prod"}
CORPUS = [each.read_bytes() for each in sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))]
KEYS = ["version", "rules", "match", "except", "policy", "rate", "output", "env", "reload", "budget", "load",
        "strategy", "threshold", "rewrite", "store", "service", "output_mode", "<<", "nonsense"]  # fmt: skip
VALUES = ["1", "prod", "${SECRET}", "${SECRET:-x}", "${", "'", '"', "[", "]", "{a: b}", "*", "&a", "*a", "!!python/object/apply:os.abort []",
          "!!python/name:os.abort", "1e999", "-0", "0x7f", "9" * 5000, "a:*", "**", "../x", "~", "1ms", "500%",
          "|\n  x", "\x1b[31m", "\u202e", "</script>", "profile", "splice", "off"]  # fmt: skip


def made(chance: random.Random) -> bytes:
    """Return a file by the grammar."""
    lines = ["version: 1"] if chance.random() < 0.8 else []
    for _ in range(chance.randrange(1, 12)):
        indent = "  " * chance.randrange(0, 3) + ("- " if chance.random() < 0.3 else "")
        lines.append(f"{indent}{chance.choice(KEYS)}: {chance.choice(VALUES)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutated(chance: random.Random) -> bytes:
    """Return a file of config/ with some bytes, lines or words changed."""
    data = bytearray(chance.choice(CORPUS))
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + chance.randrange(1, 20)] = b""
            case 1:
                data[at:at] = chance.choice(VALUES).encode()
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + chance.randrange(200)]
    return bytes(data)


def judge(data: bytes) -> str:
    """Return "policy" or "errors"; raises AssertionError for everything else that may not be."""
    try:
        ended: object = config.loads(data, filename="fuzz.yaml", env=ENVIRONMENT)
    except PolicyErrors as errors:
        assert errors.errors
        for each in errors.errors:
            assert each.line >= 1 and each.column >= 1, f"no place: {each}"
        assert SECRET not in str(errors), f"a secret: {errors}"
        return "errors"
    assert isinstance(ended, Policy)
    return "policy"


def run(files: int, seed: int) -> tuple[dict[str, int], float, list[str]]:
    """Return the endings by kind, the slowest file in seconds of this process's time, and what went wrong."""
    chance = random.Random(seed)
    endings = {"policy": 0, "errors": 0}
    wrong: list[str] = []
    slowest_s = 0.0
    for number in range(files):
        data = (made if number % 2 else mutated)(chance)
        modules = set(sys.modules) if number else set()
        began_s = time.process_time()
        try:
            endings[judge(data)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"file {number} of seed {seed}: {type(error).__name__}: {error}: {data[:2000]!r}")
        slowest_s = max(slowest_s, time.process_time() - began_s)
        if number and (loaded := set(sys.modules) - modules - LAZY):
            wrong.append(f"file {number} of seed {seed} loaded {loaded}")
    return endings, slowest_s, wrong


LAZY = {"difflib", "heapq", "_heapq", "autoprof.units", "autoprof.globs", "encodings.unicode_escape"}
"""What reading a policy may import: suggestions in messages, our own readers of values."""
