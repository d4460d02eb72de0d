"""The application uses cProfile itself: one day without, one with."""

import cProfile
import json
import pstats
import sys

from shop.work import day

day()
alone = sys.version_info < (
    3,
    12,
)  # later ones put the calls of all threads, whoever's they are, on one stack
profile = cProfile.Profile()
profile.enable()
day()
profile.disable()
counted = {
    f"{name}:{line}": [row[1], sorted((key[2], count[0]) for key, count in row[4].items() if alone)]
    for (file, line, name), row in pstats.Stats(profile).stats.items()
    if file.endswith("work.py")
}
print(json.dumps(counted, sort_keys=True))
