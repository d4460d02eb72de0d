"""The application uses yappi itself: one day without, one with."""

import json

import yappi
from shop.work import day

day()
yappi.start()
day()
yappi.stop()
counted = {
    f"{each.name}:{each.lineno}": [each.ncall, each.nactualcall]
    for each in yappi.get_func_stats()
    if each.module.endswith("work.py")
}
print(json.dumps(counted, sort_keys=True))
