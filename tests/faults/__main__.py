"""`python -m tests.faults [--nth N] [--error NAME] [STRATEGY...]`: what the application noticed of faults of ours.

Without arguments exhaustive: every error at the first and the third call of every function. "living" for a strategy is
a session that lives: reloads, load, an empty purse, imports.
"""

import argparse
import logging

from tests.faults import living
from tests.faults.injector import ERRORS, run

parser = argparse.ArgumentParser()
parser.add_argument("--nth", type=int, action="append")
parser.add_argument("--error", choices=list(ERRORS), action="append")
parser.add_argument(
    "--part", type=int, nargs=2, metavar=("K", "N"), default=(0, 1), help="every N-th from the K-th"
)
parser.add_argument("--site", action="append", help="only this function, as the lines of the output name it")
parser.add_argument("strategies", nargs="*")
asked = parser.parse_args()
logging.getLogger("autoprof").addHandler(logging.NullHandler())
logging.getLogger("autoprof").propagate = False
broken = 0
for strategy in asked.strategies or ["sample"]:
    fired = identical = counted = 0
    sites = set()
    part = slice(asked.part[0], None, asked.part[1])
    which = asked.nth or (1, 3), asked.error or list(ERRORS), part, asked.site
    for each in living.run(*which) if strategy == "living" else run({"strategy": strategy}, *which):
        if not each.fired:
            continue
        sites.add(each.site)
        fired += 1
        identical += each.identical
        counted += each.counted
        what = "" if each.identical else f"NOTICED {each.noticed[:160]}"
        what = what or ("counted" if each.counted else "not counted")
        print(f"{strategy} {each.site} {each.error} call {each.nth}: {what}", flush=True)
    print(
        f"{strategy}: {fired} faults at {len(sites)} sites, {identical} identical, {counted} counted",
        flush=True,
    )
    broken += fired - identical
raise SystemExit(bool(broken))
