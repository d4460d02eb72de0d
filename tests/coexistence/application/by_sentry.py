"""sentry with tracing and its profiler on; its envelopes go to a transport in this process."""

import json

import sentry_sdk
from sentry_sdk.transport import Transport
from shop import work

taken = []


class Kept(Transport):
    def capture_envelope(self, envelope):
        taken.append(envelope)


sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=Kept,
    traces_sample_rate=1.0,
    profiles_sample_rate=1.0,
    functions_to_trace=[{"qualified_name": "shop.work.fallible"}],
)
with sentry_sdk.start_transaction(op="task", name="day"):
    with sentry_sdk.start_span(op="work", name="inside"):
        work.day()
    try:
        work.price("no")
    except TypeError as error:
        sentry_sdk.capture_exception(error)
sentry_sdk.flush()

seen = []
for envelope in taken:
    for item in envelope.items:
        kind, body = item.headers["type"], item.payload.json
        if kind == "transaction":
            seen.append([kind, body["transaction"], [[s["op"], s["description"]] for s in body["spans"]]])
        elif kind == "event":
            for value in body["exception"]["values"]:
                lines = [
                    [f["function"], f["lineno"], sorted(f["vars"])] for f in value["stacktrace"]["frames"]
                ]
                seen.append([kind, value["type"], value["value"], lines])
        elif kind == "profile":
            frames = {each["function"] for each in body["profile"]["frames"]}
            seen.append([kind, sorted(frames & {"day", "compute"})])
print(json.dumps(sorted(seen)))
