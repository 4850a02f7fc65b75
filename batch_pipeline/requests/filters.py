"""Jinja's filters over a record's values: they see what ``{{ }}`` prints.

Jinja's own would make ``True`` of a boolean, Python's notation of a struct and of a moment, and fail on
SQL's NULL.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import orjson
from jinja2 import Environment, Undefined, pass_environment
from jinja2.filters import FILTERS, make_attrgetter

from batch_pipeline.requests.template_values import NULL, Null

Text = Callable[[Any], str]
"""Returns what ``{{ }}`` prints for a value."""

OVER_TEXT = (
    "capitalize", "center", "e", "escape", "forceescape", "indent", "lower", "replace", "string",
    "striptags", "title", "trim", "truncate", "upper", "urlize", "wordcount", "wordwrap",
)  # fmt: skip
"""Filters whose value is a text."""
OF_NULL = (
    "abs", "dictsort", "filesizeformat", "first", "last", "max", "min", "random", "reverse", "round",
    "xmlattr",
)  # fmt: skip
"""Filters that would fail on NULL: of NULL they are NULL."""


def install(environment: Environment, text_of: Text) -> None:
    """Replace the filters of an environment by such as see the values that ``{{ }}`` prints."""
    found = environment.filters
    for name in OVER_TEXT:
        found[name] = _over_text(FILTERS[name], text_of)
    for name in OF_NULL:
        if name in found:
            found[name] = _of_null(FILTERS[name])
    found["join"] = _join(text_of)
    found["tojson"] = _tojson(text_of)
    found["items"] = _items
    found["default"] = found["d"] = _default
    found["int"] = _number(FILTERS["int"])
    found["float"] = _number(FILTERS["float"])
    found["sum"] = _sum


def concatenated(parts: Iterable[Any], text_of: Text) -> str:
    """Return what ``a ~ b`` prints: the parts as ``{{ }}`` prints them."""
    return "".join(_text(part, text_of) for part in parts)


def _text(value: Any, text_of: Text) -> str:
    # What is not defined says so when it is made a text.
    return str(value) if isinstance(value, str | Undefined) else text_of(value)


def _place(filter_: Callable[..., Any]) -> int:
    """Return where a filter takes its value: some are passed the environment before it."""
    return 1 if hasattr(filter_, "jinja_pass_arg") else 0


def _over_text(filter_: Callable[..., Any], text_of: Text) -> Callable[..., Any]:
    place = _place(filter_)

    @wraps(filter_)
    def over_text(*given: Any, **fields: Any) -> Any:
        value = _text(given[place], text_of)
        return filter_(*given[:place], value, *given[place + 1 :], **fields)

    return over_text


def _of_null(filter_: Callable[..., Any]) -> Callable[..., Any]:
    place = _place(filter_)

    @wraps(filter_)
    def of_null(*given: Any, **fields: Any) -> Any:
        return NULL if isinstance(given[place], Null) else filter_(*given, **fields)

    return of_null


def _number(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """``int`` and ``float``: of NULL they are NULL, not 0, unless a default is given."""

    @wraps(filter_)
    def number(value: Any, *given: Any, **fields: Any) -> Any:
        if isinstance(value, Null) and not given and "default" not in fields:
            return NULL
        return filter_(value, *given, **fields)

    return number


def _join(text_of: Text) -> Callable[..., str]:
    @pass_environment
    def join(
        environment: Environment,
        value: Iterable[Any],
        d: Any = "",
        attribute: str | int | None = None,
    ) -> str:
        if attribute is not None:
            value = map(make_attrgetter(environment, attribute), value)
        return _text(d, text_of).join(_text(item, text_of) for item in value)

    return join


def _tojson(text_of: Text) -> Callable[..., str]:
    def tojson(value: Any, indent: int | None = None) -> str:
        """JSON with the very values that a list or struct shows when it is printed."""
        if isinstance(value, Undefined):
            str(value)  # says what is not defined
        plain = orjson.loads(text_of([value]))[0]
        return json.dumps(plain, indent=indent, sort_keys=True, ensure_ascii=False)

    return tojson


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Null | Undefined):
        return iter(())
    if not isinstance(value, Mapping):
        raise TypeError("Can only get item pairs from a mapping.")
    return iter(value.items())


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """As Jinja's, for NULL as well: a column that is not there is an error long before."""
    missing = isinstance(value, Undefined | Null) or (boolean and not value)
    return default_value if missing else value


@pass_environment
def _sum(
    environment: Environment,
    iterable: Iterable[Any],
    attribute: str | int | None = None,
    start: Any = 0,
) -> Any:
    """As SQL's: NULLs are passed over."""
    if attribute is not None:
        iterable = map(make_attrgetter(environment, attribute), iterable)
    return sum((item for item in iterable if not isinstance(item, Null)), start)
