"""`python -m tests.faults [STRATEGY...]`: a table of what the application noticed of faults in every function of ours."""

import logging
import sys

from tests.faults.injector import ERRORS, run

logging.getLogger("autoprof").addHandler(logging.NullHandler())
logging.getLogger("autoprof").propagate = False
broken = 0
for strategy in sys.argv[1:] or ["sample"]:
    fired = [each for each in run({"strategy": strategy}, (1, 3), list(ERRORS), slice(None)) if each.fired]
    bad = [each for each in fired if not each.identical]
    silent = [each for each in fired if not each.counted]
    print(f"{strategy}: {len(fired)} faults at {len({each.site for each in fired})} sites, ", end="")
    print(f"{len(fired) - len(bad)} results identical, {len(fired) - len(silent)} counted")
    for each in bad:
        print(f"  NOTICED {each.site} {each.error} call {each.nth}: {each.noticed[:120]}")
    for each in silent:
        print(f"  not counted {each.site} {each.error} call {each.nth}")
    broken += len(bad)
sys.exit(bool(broken))
