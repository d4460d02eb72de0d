"""beartype checks every annotation of the package as it is imported."""

import json

from beartype.claw import beartype_packages

beartype_packages(("shop",))

from shop import work  # noqa: E402


def told(call, *given):
    try:
        return call(*given)
    except Exception as error:
        return [type(error).__name__, str(error)]


day = work.day()
print(json.dumps([day, told(work.price, "no"), told(work.Basket, 3), told(work.fallible, None)]))
