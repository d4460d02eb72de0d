"""Count the calls of a script's functions without autoprof: program.py PART SCRIPT ARGUMENTS…

Only files whose path has PART in it. By cProfile on 3.11, which counts a generator's resumptions; from 3.12 on, where
cProfile has other ways of counting, by the interpreter's own event for the start of a function or generator.
"""

import collections
import cProfile
import inspect
import json
import runpy
import sys

part, script, *sys.argv = sys.argv[1:3] + sys.argv[2:]
counts = collections.Counter()


def run():
    runpy.run_path(script, run_name="__main__")


if sys.version_info < (3, 12):
    profile = cProfile.Profile()
    profile.runcall(run)
    for entry in profile.getstats():
        if not isinstance(entry.code, str):
            counts[entry.code] += entry.callcount
else:
    monitoring = sys.monitoring
    monitoring.use_tool_id(monitoring.PROFILER_ID, "counted")
    event = monitoring.events.PY_START
    monitoring.register_callback(monitoring.PROFILER_ID, event, lambda code, _: counts.update((code,)))
    monitoring.set_events(monitoring.PROFILER_ID, event)
    run()
    monitoring.set_events(monitoring.PROFILER_ID, 0)

generator_like = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
rows = [
    (code.co_filename, code.co_firstlineno, code.co_name, bool(code.co_flags & generator_like), count)
    for code, count in counts.items()
    if part in code.co_filename
]
print(json.dumps(rows))
