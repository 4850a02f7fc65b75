"""Values that must be of a type, worded as the API words it."""

from collections.abc import Collection, Mapping
from typing import Any

from batch_pipeline.emulator.errors import invalid

MAX_SAFE = 2**53


def an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{where}: Input should be an object")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid(f"{where}: Input should be a valid list")
    return value


def a_text(value: Any, where: str, *, filled: bool = False) -> str:
    if not isinstance(value, str):
        raise invalid(f"{where}: Input should be a valid string")
    if filled and not value:
        raise invalid(f"{where}: String should have at least 1 character")
    return value


def an_integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"{where}: Input should be a valid integer")
    return value


def a_number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise invalid(f"{where}: Input should be a valid number")
    return value


def a_truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"{where}: Input should be a valid boolean")
    return value


def one_of(value: Any, known: Collection[str], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        listed = [f"'{name}'" for name in known]
        named = " or ".join((", ".join(listed[:-1]), listed[-1])) if listed[1:] else listed[0]
        raise invalid(f"{where}: Input should be {named}")
    return value


CHECKS = {
    "object": an_object,
    "list": a_list,
    "text": a_text,
    "integer": an_integer,
    "number": a_number,
    "truth": a_truth,
}


def fields_of(
    value: Any,
    where: str,
    required: Mapping[str, str] = {},
    optional: Mapping[str, str] = {},
    *,
    more: bool = False,
) -> dict[str, Any]:
    """An object with these fields.

    Args:
        value: What should be the object.
        where: Its place, for the message.
        required: Field -> its type, a key of `CHECKS` or `any`; with `?` it may be null.
        optional: The same, of fields that may be absent.
        more: Whether it may have further fields.
    """
    found = an_object(value, where)
    for name, kind in required.items():
        if name not in found:
            raise invalid(f"{where}.{name}: Field required")
        _check(found[name], f"{where}.{name}", kind)
    for name, one in found.items():
        if name in required:
            continue
        if name in optional:
            _check(one, f"{where}.{name}", optional[name])
        elif not more:
            raise invalid(f"{where}.{name}: Extra inputs are not permitted")
    return found


def _check(value: Any, where: str, kind: str) -> None:
    if kind.endswith("?"):
        if value is None:
            return
        kind = kind[:-1]
    if kind != "any":
        CHECKS[kind](value, where)
