"""Answers as their columns hold them: the digits of decimals, and what a column has no room for.

DuckDB makes NULL of a value that its column cannot hold, without a word. So it is told here.
"""

import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import Any

DECIMAL = "x-decimal"
"""Our keyword for a number that a class declares a ``Decimal``: its ``max_digits`` and ``decimal_places``,
where it has any. No part of the question: what is sent is a number."""
MOST_DIGITS = 38
"""The digits that a DuckDB DECIMAL holds at most."""
PLACES = 10
"""Digits after the point of a decimal that declares none; an answer with more is rounded to them."""
PLAIN_DECIMAL = f"DECIMAL({MOST_DIGITS},{PLACES})"

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_FORMAT = re.compile(r"decimal(?:\( *(\d+) *(?:, *(\d+) *)?\))?")


class Misfit(Exception):
    """A column has no room for a value. The text says which value and why."""


def decimal_type(max_digits: int | None = None, decimal_places: int | None = None) -> str:
    """Return the DuckDB type that holds every decimal of so many digits, in all and after the point.

    Where a number of digits is open, so is where the point stands: ``max_digits=6`` alone takes
    123456 as well as 0.123456, which DECIMAL(12,6) holds.
    """
    if max_digits is None and decimal_places is None:
        return PLAIN_DECIMAL
    if max_digits is None:
        return f"DECIMAL({MOST_DIGITS},{min(decimal_places or 0, MOST_DIGITS)})"
    digits = min(max_digits, MOST_DIGITS)
    if decimal_places is not None:
        places = min(decimal_places, MOST_DIGITS)
        return f"DECIMAL({max(digits, places, 1)},{places})"
    if 2 * digits <= MOST_DIGITS:
        return f"DECIMAL({2 * digits},{digits})"
    return f"DECIMAL({MOST_DIGITS},{max(PLACES, MOST_DIGITS - digits)})"


def declared_digits(schema: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the digits that our keyword declares for a number; None where it does not stand."""
    digits = schema.get(DECIMAL)
    if schema.get("type") != "number" or not isinstance(digits, Mapping):
        return None
    known = {name: digits.get(name) for name in ("max_digits", "decimal_places")}
    return {name: count for name, count in known.items() if isinstance(count, int)}


def decimal_format(text: Any) -> str | None:
    """Return the DuckDB type of a ``format`` such as ``decimal(12,2)``; None for another format."""
    found = _FORMAT.fullmatch(text) if isinstance(text, str) else None
    if not found:
        return None
    digits, places = found.groups()
    return decimal_type(int(digits), int(places or 0)) if digits else PLAIN_DECIMAL


def decimal_digits(kind: Any) -> tuple[int, int] | None:
    """Return the digits of a DECIMAL type, in all and after the point; None for another type."""
    found = _DECIMAL.fullmatch(kind) if isinstance(kind, str) else None
    return (int(found[1]), int(found[2])) if found else None


def united_decimals(kinds: list[str]) -> str:
    """Return the DECIMAL that holds the values of several, whole numbers (BIGINT) among them."""
    digits = [decimal_digits(kind) or (19, 0) for kind in kinds]
    places = max(after for _, after in digits)
    whole = max(total - after for total, after in digits)
    return f"DECIMAL({min(whole + places, MOST_DIGITS)},{min(places, MOST_DIGITS)})"


def in_columns(structure: Any, value: Any, where: str = "") -> Any:
    """Return an answer as its columns hold it: decimals as text, which keeps their digits.

    Args:
        structure: what ``SchemaReader.structure`` returned.
        value: an answer, or what a class made of it; numbers may be ``Decimal``.
        where: the place of the value, for errors.

    Raises:
        Misfit: a column cannot hold it.
    """
    if value is None:
        return None
    if isinstance(structure, dict):
        if not isinstance(value, Mapping):
            raise _misfit(where, value, "is no object")
        return {
            name: in_columns(structure[name], inner, f"{where}.{name}" if where else str(name))
            for name, inner in value.items()
            if name in structure
        }
    if isinstance(structure, list):
        if not isinstance(value, list):
            raise _misfit(where, value, "is no list")
        return [
            in_columns(structure[0], inner, f"{where}.{number}")
            for number, inner in enumerate(value)
        ]
    return _scalar(structure, value, where)


def _scalar(kind: str, value: Any, where: str) -> Any:
    if digits := decimal_digits(kind):
        return _decimal(value, kind, *digits, where)
    match kind:
        case "BIGINT":
            whole = isinstance(value, int | float) and not isinstance(value, bool)
            if not whole or value != value // 1 or not -(2**63) <= value < 2**63:
                raise _misfit(where, value, "is no whole number of 64 bits")
            return int(value)
        case "DOUBLE":
            if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
                raise _misfit(where, value, "is no number")
            if isinstance(value, Decimal) and value.is_finite() and math.isinf(float(value)):
                raise _misfit(where, value, "is larger than a DOUBLE holds")
            if isinstance(value, int) and not -(2**63) <= value < 2**64:
                return float(value)
            if not math.isfinite(value):
                return str(value)  # JSON has no infinity; DuckDB reads its text
        case "BOOLEAN":
            if not isinstance(value, bool):
                raise _misfit(where, value, "is neither true nor false")
        case "DATE":
            if not isinstance(value, str) or not is_date(value):
                raise _misfit(where, value, "is no date of the form 2026-01-31")
        case "TIMESTAMPTZ":
            if not isinstance(value, str) or not is_date_time(value):
                raise _misfit(where, value, "is no time of the form 2026-01-31T23:59:59Z")
    return value


def _decimal(value: Any, kind: str, digits: int, places: int, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise _misfit(where, value, "is no number")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation as error:
        raise _misfit(where, value, "is no number") from error
    if not number.is_finite():
        raise _misfit(where, value, "is no finite number")
    # Digits enough for whatever an answer may hold within a column; more do not fit anyway.
    with localcontext(prec=2 * MOST_DIGITS + 2) as context:
        try:
            exact = number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, context)
        except InvalidOperation as error:
            raise _too_long(value, kind, where) from error
        if abs(exact) >= Decimal(1).scaleb(digits - places):
            raise _too_long(value, kind, where)
        if exact != number and kind != PLAIN_DECIMAL:
            raise _too_long(value, kind, where)
    return format(exact.normalize() if not exact else exact, "f")


def _too_long(value: Any, kind: str, where: str) -> Misfit:
    return _misfit(where, value, f"has more digits than {kind} holds")


def _misfit(where: str, value: Any, why: str) -> Misfit:
    shown = f"{value!r:.100}"
    return Misfit(f"{where}: {shown} {why}" if where else f"{shown} {why}")


def is_date(text: str) -> bool:
    """Whether DuckDB reads the text as a DATE: where it does not, it silently gives NULL."""
    return bool(_DATE.fullmatch(text)) and _parses(date.fromisoformat, text)


def is_date_time(text: str) -> bool:
    """Whether DuckDB reads the text as a TIMESTAMPTZ (no small ``t``, no leap second)."""
    return bool(_DATE_TIME.fullmatch(text)) and _parses(datetime.fromisoformat, text)


def _parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
