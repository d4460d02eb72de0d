"""The application of the service benchmark: one page with a template, a few functions of its own; knows no autoprof."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, jsonify, render_template_string, request

PAGE = """<!doctype html><title>{{ title }}</title>
<h1>{{ title|upper }}</h1>
<table>{% for row in rows %}
<tr class="{{ loop.cycle('odd', 'even') }}"><td>{{ row.name }}</td><td>{{ '%.2f'|format(row.price) }}</td>
<td><a href="{{ url_for('item', number=row.number) }}">{{ row.note|truncate(20) }}</a></td></tr>{% endfor %}
</table>"""

app = Flask(__name__)


def discount(number: int) -> float:
    return 0.1 if number % 7 == 0 else 0.0


def price(number: int) -> float:
    return (number * 1.25 + 3.0) * (1.0 - discount(number))


def row(number: int) -> dict[str, Any]:
    return {"number": number, "name": f"item <{number}>", "price": price(number), "note": "a note " * 5}


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [row(number) for number in range(first, first + count)]


@app.get("/")
def page() -> str:
    first = request.args.get("first", 1, type=int)
    return render_template_string(PAGE, title="Items", rows=rows(first, 20))


@app.get("/item/<int:number>")
def item(number: int) -> Any:
    return jsonify(row(number))


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())
