"""Under ddtrace-run: spans of flask, of a wrapped function, and of one whose code object ddtrace replaces."""

import json

from ddtrace.internal.wrapping import wrap
from ddtrace.trace import TraceFilter, tracer
from flask import Flask
from shop import work

spans = []


class Kept(TraceFilter):
    def process_trace(self, trace):
        names = {each.span_id: each.name for each in trace}
        spans.extend([each.name, each.resource, each.error, names.get(each.parent_id)] for each in trace)
        return None


tracer.configure(trace_processors=[Kept()])
around = []


def noting(function, given, named):
    around.append(function.__name__)
    return function(*given, **named)


wrap(work.price, noting)
wrap(work.Basket.total, noting)
work.fallible = tracer.wrap("fallible")(work.fallible)
app = Flask(__name__)


@app.get("/day")
def answer():
    return work.day()


@app.get("/broken")
def broken():
    return work.price("no")


client = app.test_client()
answers = [client.get("/day").json, client.get("/broken").status_code]
tracer.flush()
print(json.dumps([answers, sorted(spans, key=str), around]))
