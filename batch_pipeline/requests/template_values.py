"""What a template's values are besides text: SQL's NULL, and numbers and times that compare as they print.

A template prints a decimal as ``0.1`` and a day as ``2024-02-01``. So ``amount == 0.1`` and
``day > "2024-01-31"`` are asked of what is printed: Python would compare a decimal with a binary
fraction, and refuse to compare a day with a text.
"""

import operator
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID


class Null:
    """SQL's NULL inside a template: prints and joins as nothing, is ``none``, false and empty.

    Comparing it is false (but ``== none``), and whatever is computed of it is NULL again.
    """

    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        """As Python's own; it stands in what ``pprint`` and ``%r`` make of a record."""
        return "None"

    def __format__(self, spec: str) -> str:
        return ""

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __contains__(self, item: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def __call__(self, *args: Any, **fields: Any) -> "Null":
        """A method of NULL, ``name.strip()``, gives NULL."""
        return self

    def _false(self, other: object) -> bool:
        return False

    def _null(self, *others: object) -> "Null":
        return self

    __lt__ = __le__ = __gt__ = __ge__ = _false
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _null
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _null
    __mod__ = __rmod__ = __pow__ = __rpow__ = _null
    __neg__ = __pos__ = __abs__ = __round__ = _null


NULL = Null()


def _as_decimal(value: object) -> object:
    return Decimal(repr(value)) if isinstance(value, float) else value


def _compared(name: str, change: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    compare = getattr(operator, name)
    method = f"__{name}__"

    def comparison(self: Any, other: object) -> Any:
        mine, theirs = change(self, other)
        if mine is self:
            return getattr(super(type(self), self), method)(theirs)
        return compare(mine, theirs)

    return comparison


def _calculated(name: str) -> Any:
    def calculation(self: Any, other: object) -> Any:
        found = getattr(Decimal, name)(self, _as_decimal(other))
        return Number(found) if isinstance(found, Decimal) else found

    return calculation


def _number_pair(mine: Any, theirs: Any) -> tuple[Any, Any]:
    return (format(mine, "f"), theirs) if isinstance(theirs, str) else (mine, _as_decimal(theirs))


def _iso_pair(mine: Any, theirs: Any) -> tuple[Any, Any]:
    if isinstance(theirs, str):
        return mine.isoformat(), theirs
    if isinstance(theirs, datetime):
        # As in SQL: a day is its midnight, and what has no time zone is in UTC.
        if not isinstance(mine, datetime):
            mine = datetime(mine.year, mine.month, mine.day)
        return _zoned(mine, theirs), _zoned(theirs, mine)
    if isinstance(mine, datetime) and isinstance(theirs, date):
        return mine, datetime(theirs.year, theirs.month, theirs.day, tzinfo=mine.tzinfo)
    return mine, theirs


def _zoned(moment: datetime, other: datetime) -> datetime:
    if moment.tzinfo is None and other.tzinfo is not None:
        return datetime.combine(moment.date(), moment.time(), UTC)
    return moment


def _uuid_pair(mine: Any, theirs: Any) -> tuple[Any, Any]:
    return (str(mine), theirs.lower()) if isinstance(theirs, str) else (mine, theirs)


class Number(Decimal):
    """A decimal that reads without exponent, and computes with numbers as they are written."""

    def __str__(self) -> str:
        return format(self, "f")

    __hash__ = Decimal.__hash__


class Day(date):
    """A date that compares with its text."""

    __hash__ = date.__hash__


class Moment(datetime):
    """A date and time that reads in ISO 8601 and compares with its text."""

    def __str__(self) -> str:
        return self.isoformat()

    __hash__ = datetime.__hash__


class Clock(time):
    """A time of day that compares with its text."""

    __hash__ = time.__hash__


class Id(UUID):
    """A UUID that compares with its text."""

    __hash__ = UUID.__hash__


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    for _kind, _pair in (
        (Number, _number_pair),
        (Day, _iso_pair),
        (Moment, _iso_pair),
        (Clock, _iso_pair),
        (Id, _uuid_pair),
    ):
        setattr(_kind, f"__{_name}__", _compared(_name, _pair))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _side in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _side, _calculated(_side))


def template_value(value: Any) -> Any:
    """Return a record's value as templates see it, at any depth."""
    match value:
        case None:
            return NULL
        case dict():
            return {key: template_value(inner) for key, inner in value.items()}
        case list():
            return [template_value(inner) for inner in value]
        case Decimal():
            return Number(value)
        case datetime() if getattr(
            value, "nanosecond", 0
        ):  # Arrow's; Python's has no room for them
            return value.isoformat()
        case datetime():
            return Moment.combine(value.date(), value.timetz()).replace(fold=value.fold)
        case date():
            return Day(value.year, value.month, value.day)
        case time():
            return Clock(
                value.hour,
                value.minute,
                value.second,
                value.microsecond,
                value.tzinfo,
                fold=value.fold,
            )
        case UUID():
            return Id(int=value.int)
    return value
