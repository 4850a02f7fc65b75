"""What the query of a call says."""

import re

from starlette.requests import Request

from batch_pipeline.emulator.errors import invalid

MAX_PAGE = 1000
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def limit_of(request: Request) -> int:
    """How many items a page is to have.

    Raises:
        ApiError: It is no number, or too small or large a one.
    """
    text = request.query_params.get("limit", "20")
    if not _INTEGER.fullmatch(text):
        raise invalid("limit: Input should be a valid integer")
    limit = int(text)
    if limit < 1:
        raise invalid("limit: Input should be greater than or equal to 1")
    if limit > MAX_PAGE:
        raise invalid(f"limit: Input should be less than or equal to {MAX_PAGE}")
    return limit
