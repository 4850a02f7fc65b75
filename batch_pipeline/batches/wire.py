"""Reading what the API says: batches, pages of its list, times, and what an error means."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from batch_pipeline.batches.outcome import (
    ApiUnavailable,
    FileRefused,
    FileTooLarge,
    KeyRefused,
    NoSuchBatch,
    NotAccepted,
    OutcomeUnknown,
    PipelineRefused,
    RequestRefused,
)
from batch_pipeline.errors import BatchPipelineError, plain
from batch_pipeline.store.submissions import Endpoint

COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
MOST_REQUESTS = 100_000  # of a batch (API reference)
REFUSALS = ((400, "invalid_request_error"), (404, "not_found_error"))
"""Statuses and types of errors that are about what is in a request."""
ID = re.compile(r"[ -~]{1,10000}")  # odd ones are hashed where they would name a file


@dataclass(frozen=True)
class Batch:
    """A batch as the API shows it; ``requests`` is 0 when it does not say how many it has."""

    id: str
    requests: int
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    ended: bool
    has_results: bool
    endpoint: Endpoint | None = None  # whose it is, as the reply that created it says


@dataclass(frozen=True)
class Page:
    """One page of the list, newest first."""

    batches: list[Batch]
    next_after: str | None
    server_now: datetime | None
    endpoint: Endpoint


class reading:
    """Turns what a look at the API may raise into this package's errors."""

    def __init__(self, base_url: str, hide: Callable[[BatchPipelineError], BatchPipelineError]):
        self.base_url = base_url
        self.hide = hide

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error: BaseException | None, _traceback) -> None:
        found = self._meaning(error)
        if found is not None:
            # Without its cause, which quotes the reply in full.
            raise self.hide(found) from None

    def _meaning(self, error: BaseException | None) -> BatchPipelineError | None:
        if isinstance(error, anthropic.NotFoundError):
            if not _is_the_apis(error):
                return ApiUnavailable(
                    f"{self.base_url} answers 404 with something that is not the API's own reply "
                    f"({_message(error)[:200]}). Check ClaudeBatches(base_url=...) and what stands between."
                )
            return NoSuchBatch(f"{self.base_url} answers 404: {_message(error)}")
        if isinstance(error, anthropic.APIStatusError):
            if error.status_code in (401, 402, 403):
                return KeyRefused(_account(error, self.base_url))
            text = f"{_message(error)}{_request_id(error)}"
            return ApiUnavailable(f"{self.base_url} answers {error.status_code}: {text}")
        if isinstance(error, anthropic.APIError | httpx2.HTTPError):
            cause = error.__cause__ or error
            return ApiUnavailable(
                f"{self.base_url} could not be asked ({type(cause).__name__}: {cause}). Check the "
                "network and ClaudeBatches(base_url=...); it is tried again later."
            )
        not_a_reply = (
            AttributeError | LookupError | OverflowError | TypeError | ValueError | RecursionError
        )
        if isinstance(error, anthropic.AnthropicError | not_a_reply):
            return ApiUnavailable(
                f"{self.base_url} sent something that is no Message Batches reply: {error}"
            )
        return None


def refusal(error: anthropic.APIStatusError, base_url: str) -> BatchPipelineError:
    status, text = error.status_code, f"{_message(error)}{_request_id(error)}"
    retry_after = _seconds(error.response.headers.get("retry-after"))
    if _spend_limit(error):
        return PipelineRefused(
            f"{base_url} refuses new work because a spend limit is reached ({status}: {text}). "
            "Raise the limit "
            "in the Console or wait for next month; then launch the send job. What was sent stays "
            "paid and is collected."
        )
    if status in (401, 402, 403):
        return PipelineRefused(_account(error, base_url))
    if status == 413:
        return FileTooLarge(f"{base_url} answers 413: {text}")
    if status == 429:
        if retry_after is None:
            return PipelineRefused(
                f"{base_url} answers 429 without saying when to try again, which is how a spend "
                f"limit looks ({text}). "
                "Look at the organization's limits in the Console; then launch the send job."
            )
        said = f"{base_url} is at its rate limit: {text}"
        return NotAccepted(said, retry_after, on_its_word=True)
    # 529 (overloaded) included: it may come from a server that took the batch and choked on the
    # reply. To look costs two minutes; to believe it could cost a batch. 409 says that something
    # else was going on, not that the batch is bad.
    if status >= 500 or status in (408, 409):
        return OutcomeUnknown(f"{base_url} answers {status}: {text}")
    if 300 <= status < 400:
        return FileRefused(
            f"{base_url} answers {status} and points to {error.response.headers.get('location')}; "
            "redirects are not "
            "followed because the key would go with them. Set ClaudeBatches(base_url=...) to the "
            "final address."
        )
    return FileRefused(f"{base_url} refuses the batch ({status}: {text})")


def message_refusal(error: anthropic.APIStatusError, base_url: str) -> BatchPipelineError | None:
    """Return what an error says about a single request; None: the API will not answer it as it is.

    The API's own word that it is overloaded counts: what it did not answer, it does not bill (docs Errors).
    """
    found = refusal(error, base_url)
    if error.status_code == 529 and _is_the_apis(error):
        retry_after = _seconds(error.response.headers.get("retry-after"))
        return NotAccepted(f"{base_url} is overloaded: {_message(error)}", retry_after)
    if isinstance(found, FileRefused | FileTooLarge):
        if _is_the_apis(error) and 400 <= error.status_code < 500:
            return None
        # A redirect, or the page of something between here and the API: nothing was asked.
        return NotAccepted(f"{base_url} answers {error.status_code} with no reply of the API")
    return found


def _spend_limit(error: anthropic.APIStatusError) -> bool:
    if error.status_code not in (400, 429):
        return False
    code = str(getattr(error, "error_code", None) or "")
    text = _message(error).lower()
    return (
        "spend_limit" in code
        or "spend limit" in text
        or "usage limit" in text
        or "credit balance" in text
    )


def _account(error: anthropic.APIStatusError, base_url: str) -> str:
    what = {
        401: "does not accept the API key",
        402: "reports a billing problem",
        403: "does not allow this key to use message batches",
    }[error.status_code]
    return (
        f"{base_url} {what} ({error.status_code}: {_message(error)}{_request_id(error)}). Check "
        "ClaudeBatches(api_key=..., base_url=...) and the account in the Console; then launch the "
        "job again."
    )


def _message(error: anthropic.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error")
        if isinstance(inner, dict) and inner.get("message"):
            return plain(str(inner["message"]))
    return plain(str(error.message))


def _is_the_apis(error: anthropic.APIStatusError) -> bool:
    """Whether an error has the form of the API's own, and is not a gateway's page."""
    inner = error.body.get("error") if isinstance(error.body, dict) else None
    return isinstance(inner, dict) and isinstance(inner.get("type"), str)


def _request_id(error: anthropic.APIStatusError) -> str:
    return f" [request {error.request_id}]" if error.request_id else ""


def batch_of(item: MessageBatch) -> Batch:
    """Return what the API says of a batch.

    Counts that no batch can have (none at all, negative, above the API's limit, no numbers) count as
    not known: ``requests`` is 0 then.

    Raises:
        AttributeError, TypeError, ValueError: that is no batch.
    """
    batch_id, status = item.id, item.processing_status
    if not isinstance(batch_id, str) or not ID.fullmatch(batch_id):
        raise ValueError(f"a batch whose id is {plain(repr(batch_id))[:80]}")
    if not isinstance(status, str) or not status:
        raise ValueError(f"{batch_id} is {plain(repr(status))[:80]}, which no batch can be")
    return Batch(
        id=batch_id,
        requests=_size(item.request_counts),
        created_at=_instant(item.created_at),
        expires_at=_instant(item.expires_at) if item.expires_at else None,
        ended_at=_instant(item.ended_at) if item.ended_at else None,
        ended=status == "ended",
        has_results=bool(item.results_url),
    )


def _size(counts: object) -> int:
    """Return how many requests a batch has; 0 when it does not say so."""
    found = [getattr(counts, name, None) for name in COUNTS]
    if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in found):
        return 0
    total = sum(one for one in found if isinstance(one, int))
    return total if total <= MOST_REQUESTS else 0


def as_list(listed: Any) -> tuple[list[Batch], str | None]:
    """Return the batches of a page of the list, and where the next one begins; None: it is the last.

    Raises:
        AttributeError, TypeError, ValueError: that is no page of a list.
    """
    batches = [batch_of(item) for item in listed.data]
    if not isinstance(listed.has_more, bool):
        raise ValueError("a list that does not say whether there is more of it")
    if not listed.has_more:
        return batches, None
    if not batches:
        raise ValueError("an empty page of a list that is said to go on")
    last = listed.last_id
    return batches, last if isinstance(last, str) and last else batches[-1].id


def _instant(value: datetime | str) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"a time that is none: {moment}") from None


def moment_of(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except ValueError:
        return None


def refused_request(error: anthropic.APIStatusError, base_url: str) -> RequestRefused | None:
    """Return what the API itself says is wrong with a request; None: it says no such thing."""
    if not _is_the_apis(error):
        return None
    body: Any = error.body
    kind = body["error"]["type"]
    if (error.status_code, kind) not in REFUSALS or _spend_limit(error):
        return None
    said = _message(error)
    text = f"{base_url} answers {error.status_code}: {said}{_request_id(error)}"
    return RequestRefused(text, kind, said)


def _seconds(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        moment = moment_of(header)
        return None if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())
