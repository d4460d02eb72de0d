"""Durations, sizes, shares and booleans: from what people write to numbers and back.

Everything inside autoprof is integer nanoseconds, integer bytes and shares from 0 to 1.
"""

from __future__ import annotations

from autoprof.errors import UnitError

DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
MICRO_SIGNS = ("µs", "μs")  # U+00B5 and U+03BC both look like a micro sign
TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})

DURATION_FORM = "write a duration such as 250us, 100ms, 2s, 1m or 7d (a bare number is milliseconds)"
SIZE_FORM = "write a size such as 64KB, 50MB or 2GiB (a bare number is bytes)"
SHARE_FORM = "write a share such as 0.1% or 0.001"
BOOL_FORM = "write true or false"

_LARGEST = 2**62  # everything is kept in 64-bit columns
_NUMBER_CHARACTERS = frozenset("0123456789.eE+-_")
_DURATION_WORDS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m",
    "minutes": "m", "msec": "ms", "msecs": "ms", "millis": "ms", "milliseconds": "ms", "usec": "us",
    "micros": "us", "hour": "h", "hours": "h", "hr": "h", "day": "d", "days": "d", "nanos": "ns",
}  # fmt: skip


def parse_duration_ns(value: object) -> int:
    """Return nanoseconds: `250us 100ms 2s 1m 7d`; a bare number is milliseconds.

    Raises:
        UnitError: not a duration, another unit, negative, or above 146 years.
    """
    number, unit = _split(value, "a duration", DURATION_FORM)
    if unit in MICRO_SIGNS:
        unit = "us"
    factor = DURATION_UNITS.get(unit or "ms")
    if factor is None:
        raise _wrong_unit(value, number, unit, "a duration", DURATION_FORM)
    return _whole(number, factor, value, "a duration", DURATION_FORM)


def parse_size_bytes(value: object) -> int:
    """Return bytes: `64KB` is 64 000, `64KiB` 65 536; a bare number is bytes.

    Raises:
        UnitError: not a size, another unit, negative, or above 4 EiB.
    """
    number, unit = _split(value, "a size", SIZE_FORM)
    factor = SIZE_UNITS.get(_size_unit(unit))
    if factor is None:
        raise _wrong_unit(value, number, unit, "a size", SIZE_FORM)
    return _whole(number, factor, value, "a size", SIZE_FORM)


def parse_share(value: object) -> float:
    """Return a share from 0 to 1: `0.1%` or `0.001`.

    Raises:
        UnitError: not a number, another unit, below 0 or above 1.
    """
    number, unit = _split(value, "a share", SHARE_FORM)
    if unit not in ("", "%"):
        raise _wrong_unit(value, number, unit, "a share", SHARE_FORM)
    amount = float(number)
    share = amount / 100 if unit else amount
    if 0 <= share <= 1:
        return share
    if share < 0:
        raise UnitError("a share is not negative", SHARE_FORM, given=value)
    meant = f"{number}%" if not unit and amount <= 100 else None
    raise UnitError("a share is at most 1 (100%)", SHARE_FORM, given=value, suggestion=meant)


def parse_bool(value: object) -> bool:
    """Return a truth value: true false yes no on off 1 0, in any case.

    Raises:
        UnitError: anything else.
    """
    if isinstance(value, (bool, int, str)):
        word = str(value).strip().lower()
        if word in TRUE_WORDS:
            return True
        if word in FALSE_WORDS:
            return False
    raise UnitError("not true or false", BOOL_FORM, given=value)


def format_duration(duration_ns: int) -> str:
    """Return a duration for people, three figures: `250us`, `1.5s`, `7d`; parse_duration_ns reads it back."""
    return _format(duration_ns, DURATION_UNITS)


def format_size(size_bytes: int) -> str:
    """Return a size for people, three figures, decimal units: `64KB`; parse_size_bytes reads it back."""
    return _format(size_bytes, {name: factor for name, factor in SIZE_UNITS.items() if "i" not in name})


def format_share(share: float) -> str:
    """Return a share for people, in per cent: `0.1%`; parse_share reads it back."""
    text = f"{share * 100:.6g}"
    if "e" in text:
        text = f"{share * 100:.12f}".rstrip("0").rstrip(".")
    return text + "%"


def _split(value: object, what: str, form: str) -> tuple[str, str]:
    """Return the number's text and the unit's; the number is known to be a finite one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnitError(f"not {what}", form, given=value)
    try:
        text = value.strip() if isinstance(value, str) else repr(value)
    except ValueError:  # an int of more than 4 300 digits
        raise UnitError(f"{what} this large can't be kept", form) from None
    end = len(text)
    while end and (text[end - 1].isalpha() or text[end - 1] == "%"):
        end -= 1
    number, unit = text[:end].rstrip(), text[end:]
    if not number or not _NUMBER_CHARACTERS.issuperset(number) or not _finite(number):
        raise UnitError(_why_no_number(text, what), form, given=value)
    return number, unit


def _finite(number: str) -> bool:
    try:
        amount = float(number)
    except ValueError:
        return False
    return amount - amount == 0


def _why_no_number(text: str, what: str) -> str:
    clock = text.split(":")
    if len(clock) > 1 and all(part.strip().isdigit() for part in clock):
        return f"not {what}: a colon makes this a number of base 60 for YAML"
    return f"not {what}"


def _size_unit(unit: str) -> str:
    if not unit:
        return "B"
    lower = unit.lower()
    return next((name for name in SIZE_UNITS if name.lower() == lower), unit)


def _wrong_unit(value: object, number: str, unit: str, what: str, form: str) -> UnitError:
    """Name what the unit given measures, so that the right one is plain."""
    problem, suggestion = f"not a unit of {what}", None
    if unit in DURATION_UNITS or unit in MICRO_SIGNS or unit in _DURATION_WORDS:
        kind = "time"
    elif unit == "%":
        kind = "a share"
    else:
        kind = "size" if _size_unit(unit) in SIZE_UNITS else ""
    known = DURATION_UNITS if what == "a duration" else SIZE_UNITS if what == "a size" else {}
    if known is DURATION_UNITS and (meant := _DURATION_WORDS.get(unit.lower(), unit.lower())) in known:
        suggestion = f"{number}{meant}"
    elif known is SIZE_UNITS and f"{unit.upper()}B" in known:
        suggestion = f"{number}{unit.upper()}B"
    elif kind:
        problem = f"a unit of {kind} where {what} belongs"
    return UnitError(problem, form, given=value, suggestion=suggestion)


def _whole(number: str, factor: int, value: object, what: str, form: str) -> int:
    amount = float(number)
    if amount < 0:
        raise UnitError(f"{what} is not negative", form, given=value)
    if amount * factor > _LARGEST:
        raise UnitError(f"{what} this large can't be kept", form, given=value)
    return int(number) * factor if number.isdecimal() else round(amount * factor)


def _format(amount: int, units: dict[str, int]) -> str:
    if amount < 0:
        return "-" + _format(-amount, units)
    names = sorted(units, key=units.__getitem__)
    best = names[0]
    for name in names:
        if _three_figures(amount / units[name]) >= 1:
            best = name
    return f"{_three_figures(amount / units[best]):.15g}{best}"


def _three_figures(amount: float) -> float:
    return float(f"{amount:.3g}") if amount < 1000 else float(round(amount))
