"""Errors that are answered instead of the call's reply, worded as the API words them."""

from datetime import UTC, datetime

from batch_pipeline.emulator.errors import STATUS_OF_TYPE, error_document
from batch_pipeline.emulator.faults.kind import Scene, kind
from batch_pipeline.emulator.replies import Reply

_PAGE = (
    "<html><head><title>{title}</title></head>"
    "<body><center><h1>{title}</h1></center><hr><center>nginx</center></body></html>\n"
)


def _error(
    type: str, message: str, *, status: int | None = None, retry_after: int | None = None
) -> Reply:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    document = error_document(type, message, None)
    return Reply(status=status or STATUS_OF_TYPE[type], document=document, headers=headers)


def authentication_error() -> Reply:
    """The reply to a key that is not good."""
    return _error("authentication_error", "invalid x-api-key")


@kind("reply")
async def internal_error(scene: Scene) -> Reply:
    """500 `api_error`."""
    return _error("api_error", "Internal server error")


@kind("reply")
async def bad_gateway(scene: Scene) -> Reply:
    """502: the HTML page of a proxy, with none of the API's headers."""
    body = _PAGE.format(title="502 Bad Gateway").encode()
    return Reply(status=502, body=body, headers={"content-type": "text/html"}, by_proxy=True)


@kind("reply")
async def gateway_timeout(scene: Scene) -> Reply:
    """504 `timeout_error`."""
    return _error("timeout_error", "The request timed out while it was processed")


@kind("reply")
async def overloaded(scene: Scene, *, retry_after: int | None = None) -> Reply:
    """529 `overloaded_error`."""
    return _error("overloaded_error", "Overloaded", retry_after=retry_after)


@kind("reply")
async def request_timeout(scene: Scene) -> Reply:
    """408 `timeout_error`: the request did not arrive in time."""
    return _error("timeout_error", "Request timeout", status=408)


@kind("reply")
async def conflict(scene: Scene) -> Reply:
    """409 `conflict_error`."""
    return _error("conflict_error", "The request conflicts with another one; try again")


@kind("reply", "create")
async def request_too_large(scene: Scene) -> Reply:
    """413 `request_too_large`, whatever the size."""
    return _error("request_too_large", "Request exceeds the maximum size")


@kind("reply")
async def rate_limited(scene: Scene, *, retry_after: int | None = 7) -> Reply:
    """429 `rate_limit_error` with `retry-after`: too many calls in this minute."""
    message = "This request would exceed the rate limit of your organization: calls per minute"
    return _error("rate_limit_error", message, retry_after=retry_after)


@kind("reply", "create")
async def queue_full(scene: Scene, *, retry_after: int | None = 30) -> Reply:
    """429 `rate_limit_error` with `retry-after`: too many batch requests are waiting already."""
    message = "This batch would exceed the number of batch requests that may be processed at once"
    return _error("rate_limit_error", message, retry_after=retry_after)


@kind("reply", "create", "messages")
async def spend_limit(scene: Scene) -> Reply:
    """429 without `retry-after`, with error_code `enforced_spend_limit_reached`: the tier's monthly
    limit, until next month."""
    message = f"You have reached the API usage threshold of your tier. {_regained(scene)}"
    details = {"error_code": "enforced_spend_limit_reached"}
    document = error_document("rate_limit_error", message, None, details)
    return Reply(status=429, document=document)


@kind("reply", "create", "messages")
async def own_spend_limit(scene: Scene) -> Reply:
    """400 `invalid_request_error`: the limit that the organization set for itself is reached."""
    message = f"You have reached your specified API usage limits. {_regained(scene)}"
    return _error("invalid_request_error", message)


def _regained(scene: Scene) -> str:
    now = datetime.fromtimestamp(scene.emulator.clock.now(), UTC)
    year, month = divmod(now.year * 12 + now.month, 12)
    return f"You will regain access on {year}-{month + 1:02d}-01 at 00:00 UTC."


@kind("before")
async def status_before(
    *,
    status: int = 500,
    type: str | None = None,
    message: str = "The emulator was told to fail",
    error_code: str | None = None,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Reply | None:
    """Any error instead of the call. `body` replaces the JSON body, as a proxy's page would."""
    return _told(status, type, message, error_code, headers, body)


@kind("after")
async def status_after(
    reply: Reply,
    *,
    status: int = 500,
    type: str | None = None,
    message: str = "The emulator was told to fail",
    error_code: str | None = None,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Reply:
    """The call is done, but any error is answered."""
    return _told(status, type, message, error_code, headers, body)


def _told(
    status: int,
    type: str | None,
    message: str,
    error_code: str | None,
    headers: dict[str, str] | None,
    body: str | None,
) -> Reply:
    if body is not None:
        html = {"content-type": "text/html", **(headers or {})}
        return Reply(status=status, body=body.encode(), headers=html)
    types = {known: name for name, known in STATUS_OF_TYPE.items()}
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    details = {"error_code": error_code} if error_code else None
    document = error_document(type or types.get(status, fallback), message, None, details)
    return Reply(status=status, document=document, headers=headers or {})
