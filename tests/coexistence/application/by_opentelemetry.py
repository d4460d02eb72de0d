"""Under opentelemetry-instrument: spans of flask and of the application, written by the console exporter."""

from flask import Flask
from opentelemetry import trace
from shop import work

app = Flask(__name__)
tracer = trace.get_tracer("shop")
work.fallible = tracer.start_as_current_span("fallible")(work.fallible)


@app.get("/day")
def answer():
    with tracer.start_as_current_span("day"):
        return work.day()


@app.get("/broken")
def broken():
    return work.price("no")


client = app.test_client()
assert client.get("/day").json
assert client.get("/broken").status_code == 500
