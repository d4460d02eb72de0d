"""The web application: every page of the shop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, render_template, request

from shop.catalog import Catalog, UnknownProduct
from shop.db import Database
from shop.orders import OrderBook, OrderError, UnknownOrder
from shop.pricing import Basket, money
from shop.reports import export_csv, sales_report
from shop.seed import OPENING_DAY
from shop.suppliers import sorted_offers

MAX_BODY_BYTES = 64 * 1024

View = TypeVar("View", bound=Callable[..., Any])
pages = Blueprint("pages", __name__)


class Shop:
    """What the pages need, kept at the application as `app.extensions["shop"]`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.catalog = Catalog(database)
        self.orders = OrderBook(database, self.catalog, OPENING_DAY)
        self.today = OPENING_DAY


def create_app(database: Database) -> Flask:
    """Make the application on a database that is already filled."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions["shop"] = Shop(database)
    app.jinja_env.filters["money"] = money
    app.register_blueprint(pages)
    for error in (UnknownProduct, UnknownOrder):
        app.register_error_handler(error, not_found)
    app.register_error_handler(OrderError, refused)
    return app


def the_shop() -> Shop:
    """Return the shop of the request at hand."""
    shop: Shop = current_app.extensions["shop"]
    return shop


def needs_json(view: View) -> View:
    """Hand the request's JSON object to the view as its first argument; anything else is a 400."""

    @functools.wraps(view)
    def with_json(*args: Any, **kwargs: Any) -> Any:
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            abort(400, "a JSON object is needed")
        return view(body, *args, **kwargs)

    return with_json  # type: ignore[return-value]


def not_found(error: Exception) -> tuple[str, int]:
    """Say that a product or an order does not exist."""
    return render_template("missing.html", what=str(error)), 404


def refused(error: Exception) -> tuple[Response, int]:
    """Say why an order can't be placed."""
    return jsonify(error=str(error)), 422


@pages.get("/")
def home() -> str:
    """Show the categories."""
    return render_template("home.html", categories=the_shop().catalog.categories)


@pages.get("/category/<name>")
def category(name: str) -> str:
    """Show the products of one category."""
    products = the_shop().catalog.in_category(name)
    if not products:
        raise UnknownProduct(name)
    return render_template("category.html", name=name, products=products)


@pages.get("/product/<sku>")
def product(sku: str) -> str:
    """Show one product, what it costs by quantity, and what is like it."""
    shop = the_shop()
    shown = shop.catalog[sku]
    prices = [(quantity, shop.orders.basket([(sku, quantity)])) for quantity in (1, 3, 6, 12)]
    return render_template("product.html", product=shown, prices=prices, similar=shop.catalog.similar(shown))


@pages.get("/product/<sku>/offers")
def product_offers(sku: str) -> str:
    """Show what the suppliers ask for a product."""
    shown = the_shop().catalog[sku]
    return render_template("offers.html", product=shown, offers=asyncio.run(sorted_offers(shown)))


@pages.get("/search")
def search() -> str:
    """Show what fits the words asked for."""
    text = request.args.get("q", "")
    return render_template("search.html", text=text, hits=the_shop().catalog.search(text))


@pages.post("/basket")
@needs_json
def quote(body: dict[str, Any]) -> Response:
    """Answer what a basket costs."""
    basket = read_basket(body)
    return jsonify(subtotal=basket.subtotal, shipping=basket.shipping, total=basket.total())


@pages.post("/orders")
@needs_json
def place_order(body: dict[str, Any]) -> tuple[str, int]:
    """Place an order under the number the customer's side chose, so that asking again does no harm."""
    number, customer = body.get("number"), body.get("customer")
    if not (isinstance(number, str) and isinstance(customer, str) and 0 < len(number) <= 40):
        raise OrderError("an order has a number (at most 40 characters) and a customer")
    order = the_shop().orders.place(number, customer, read_basket(body))
    return render_template("order.html", order=order), 201


@pages.get("/orders/<number>")
def order(number: str) -> str:
    """Show an order."""
    return render_template("order.html", order=the_shop().orders.find(number))


@pages.get("/reports/sales")
def sales() -> str:
    """Show the sales report: the slow page."""
    shop = the_shop()
    return render_template("sales.html", report=sales_report(shop.database, shop.today))


@pages.get("/reports/sales.csv")
def sales_csv() -> Response:
    """Stream the closed orders while they are read."""
    shop = the_shop()
    return Response(export_csv(shop.database, shop.today), mimetype="text/csv")


@pages.get("/status")
def status() -> Response:
    """Answer with figures for a monitor; the one page that depends on what happened before."""
    shop = the_shop()
    return jsonify(products=len(shop.catalog), orders=shop.orders.count(), ok=True)


def read_basket(body: dict[str, Any]) -> Basket:
    """Make a basket of the JSON `{"items": [["P0001", 2], …]}`.

    Raises:
        OrderError: written otherwise.
    """
    items = body.get("items")
    if not isinstance(items, list) or not all(map(_is_item, items)):
        raise OrderError('items are written as [["P0001", 2], …]')
    return the_shop().orders.basket((sku, quantity) for sku, quantity in items)


def _is_item(item: object) -> bool:
    match item:
        case [str(), int()] if not isinstance(item[1], bool):
            return True
    return False
