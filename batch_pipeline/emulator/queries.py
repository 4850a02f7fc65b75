"""What the query of a call says."""

import re

from starlette.requests import Request

from batch_pipeline.emulator.errors import invalid

MAX_PAGE = 1000
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def integer_of(text: str) -> int | None:
    """A number as it is written in a query or a form; None where it is none."""
    return int(text) if _INTEGER.fullmatch(text) else None


def values_of(request: Request, name: str) -> list[str]:
    """All values of a parameter that may come several times, as `name=` or as `name[]=`."""
    query = request.query_params
    return [*query.getlist(name), *query.getlist(f"{name}[]")]


def limit_of(request: Request) -> int:
    """How many items a page is to have.

    Raises:
        ApiError: It is no number, or too small or large a one.
    """
    limit = integer_of(request.query_params.get("limit", "20"))
    if limit is None:
        raise invalid("limit: Input should be a valid integer")
    if limit < 1:
        raise invalid("limit: Input should be greater than or equal to 1")
    if limit > MAX_PAGE:
        raise invalid(f"limit: Input should be less than or equal to {MAX_PAGE}")
    return limit
