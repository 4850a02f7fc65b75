"""Reading and writing the JSON of answers: nothing that a model writes breaks it, no digit is lost."""

import json
from decimal import Decimal
from typing import Any

import orjson

FLOAT_DIGITS = 15
"""Characters of a number that a float holds for certain."""


def parsed(text: bytes | str, exact: bool = False) -> Any:
    """Return the JSON value, None when it is none. Half of a surrogate pair becomes U+FFFD.

    Args:
        text: the JSON.
        exact: a number whose digits a float does not hold becomes a ``Decimal``.
    """
    number = _exact_number if exact else _number
    try:
        if not exact:
            return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # Python's own parser takes lone surrogates, as where an answer was cut inside an emoji.
        found = json.loads(text, parse_int=number, parse_float=number, parse_constant=_number)
        return _mended(found)
    except (ValueError, RecursionError):
        return None


def _number(digits: str) -> int | float | None:
    try:
        return orjson.loads(digits)
    except orjson.JSONDecodeError:
        return None


def _exact_number(digits: str) -> int | float | Decimal:
    """Return a JSON number with all its digits, also one that no float holds, such as 1e400."""
    number = _number(digits)
    is_short = len(digits) <= FLOAT_DIGITS and "e" not in digits.lower()
    if isinstance(number, int) or (number is not None and is_short):
        return number
    exact = Decimal(digits)
    return number if number is not None and exact == Decimal(repr(number)) else exact


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    return value


def number_as_written(value: Any) -> orjson.Fragment:
    """Let ``orjson.dumps`` write a ``Decimal`` as a number: its ``default``."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")
