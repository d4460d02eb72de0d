"""`python -m tests.fuzz [FILES [SEED]]`: exit status 1 and the files where something other than a policy or errors came."""

import sys
from pathlib import Path

from tests.fuzz import run


def peak_kib() -> int:
    """Return this image's own peak; getrusage's is inherited from the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith("VmHWM"))


files, seed = ([int(each) for each in sys.argv[1:]] + [100_000, 1][len(sys.argv) - 1 :])[:2]
before_kib = peak_kib()
endings, slowest_s, wrong = run(files, seed)
grown_mib = (peak_kib() - before_kib) / 1024
print(
    f"{files} files of seed {seed}: {endings}; slowest {slowest_s:.3f} s CPU; {grown_mib:.0f} MiB more at the peak"
)
if slowest_s > 1 or grown_mib > 50:
    wrong.append("too slow or too large")
print(*wrong[:20], sep="\n")
sys.exit(bool(wrong))
