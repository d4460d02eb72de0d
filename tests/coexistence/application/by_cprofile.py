"""The application uses cProfile itself: one day without, one with."""

import cProfile
import json
import pstats

from shop.work import day

day()
profile = cProfile.Profile()
profile.enable()
day()
profile.disable()
counted = {
    f"{name}:{line}": [row[0], row[1], sorted((key[2], count[0]) for key, count in row[4].items())]
    for (file, line, name), row in pstats.Stats(profile).stats.items()
    if file.endswith("work.py")
}
print(json.dumps(counted, sort_keys=True))
