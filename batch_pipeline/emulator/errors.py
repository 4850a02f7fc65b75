"""Errors as the API words them."""

from typing import Any

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class ApiError(Exception):
    """A call, or one request of a batch, that the API answers with an error.

    Args:
        type: The API's error type; it decides the HTTP status.
        message: Text for the person who reads it.
        details: Further machine-readable facts, such as `error_code`.
        headers: Extra headers of the reply.
    """

    def __init__(
        self,
        type: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.details = details
        self.headers = headers or {}

    @property
    def status(self) -> int:
        return STATUS_OF_TYPE.get(self.type, 500)


def invalid(message: str) -> ApiError:
    """The error for a request that is wrong in itself: sending it again will not help."""
    return ApiError("invalid_request_error", message)


def error_document(
    type: str, message: str, request_id: str | None, details: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON body of an error."""
    error: dict[str, Any] = {"type": type, "message": message}
    if details:
        error["details"] = details
    return {"type": "error", "error": error, "request_id": request_id}
