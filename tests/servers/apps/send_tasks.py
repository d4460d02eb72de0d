"""Send tasks and wait for their results: `send_tasks.py COUNT`."""

from __future__ import annotations

import sys

from tasks import order

results = [order.delay(number) for number in range(int(sys.argv[1]))]
assert [each.get(timeout=60, interval=0.05) for each in results] == [2 * n for n in range(len(results))]
