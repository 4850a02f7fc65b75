"""All talk with the Message Batches API. The only module that imports the anthropic SDK.

Creating a batch is never retried here and no redirect is followed: there is no idempotency key, so
only the caller, who knows the ledger, may decide to send again. Its outcome is one of five
exceptions or a batch; each says what is known about the money.
"""

import json
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from batch_pipeline.errors import BatchPipelineError, HeldError, plain
from batch_pipeline.store.submissions import Endpoint

MESSAGES_PATH = "/v1/messages"
BATCHES_PATH = f"{MESSAGES_PATH}/batches"
TOKENS_PATH = f"{MESSAGES_PATH}/count_tokens"
COUNTED_PARAMS = (
    "model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"
)  # fmt: skip
"""What the API takes for counting; other parameters are a 400 there."""
PUBLIC_API = "https://api.anthropic.com"
PAGE = 1000  # the list's largest page (API reference: limit 1..1000)
CHUNK = 1 << 20
CONNECT_SECONDS = 5.0
# What the SDK itself uses to hand out a response whose body is not read yet; results are hundreds
# of MB.
STREAMED = {"X-Stainless-Raw-Response": "stream", "Accept": "application/binary"}


class NotAccepted(BatchPipelineError):
    """The API did not take the batch, for a reason that passes: it was busy, or not reached at all."""

    def __init__(
        self, message: str, retry_after: float | None = None, *, on_its_word: bool = False
    ):
        """Make one; ``on_its_word``: the API itself said so, and nothing else proves it."""
        super().__init__(message)
        self.retry_after = retry_after
        self.on_its_word = on_its_word


class OutcomeUnknown(BatchPipelineError):
    """No reply, or one that proves nothing: the batch may exist and be paid for."""


class PipelineRefused(HeldError):
    """The API refuses this account or key (401, 402, 403, a spend limit): no file of it can be sent."""


class FileRefused(HeldError):
    """The API will not take this request file as it is (any other 4xx)."""


class FileTooLarge(BatchPipelineError):
    """413: the API wants smaller batches."""


class ApiUnavailable(BatchPipelineError):
    """A look at the API failed for a reason that passes. Nothing was changed."""


class NoSuchBatch(BatchPipelineError):
    """The API knows no batch of this id, or no longer has its results."""


@dataclass(frozen=True)
class Batch:
    """A batch as the API shows it."""

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


class BatchesApi:
    """The API as one endpoint sees it.

    Args:
        api_key: the key; it is sent to ``base_url`` and to nobody else.
        base_url: where the API is.
        timeout_seconds: how long one call may take.
        patient: let the SDK repeat failed look-ups; not for a sensor, which has little time.
    """

    def __init__(
        self, api_key: str, base_url: str, timeout_seconds: float, *, patient: bool = True
    ):
        self.base_url = base_url.rstrip("/")
        self._origin = _origin(self.base_url)
        self._key = api_key
        self._client = self._make(api_key, timeout_seconds, keepalive=True).with_options(
            max_retries=2 if patient else 0
        )
        # A kept-alive connection may be dead; sending on it would look like a lost reply. Half of
        # the time is for the upload (``create`` sees to that), the other half for the reply, so
        # that an attempt is over before its lease is.
        self._upload_seconds = timeout_seconds / 2
        self._sender = self._make(api_key, timeout_seconds / 2, keepalive=False)

    def __repr__(self) -> str:
        """The endpoint, never the key."""
        return f"BatchesApi({self.base_url})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._sender.close()

    def identify(self) -> Endpoint:
        """Ask the API who we are to it: one list call of one batch.

        Raises:
            HeldError: the key is refused.
            ApiUnavailable: no answer.
        """
        with _looking(self.base_url, self._hide):
            raw = self._client.messages.batches.with_raw_response.list(limit=1)
            # Anything may answer 200: only a list of batches is an answer of this API.
            for item in raw.parse().data:
                _batch(item)
        return self._endpoint(raw.headers)

    def create(self, body: Iterator[bytes], length: int) -> Batch:
        """Create a batch from a body that is streamed, once.

        Args:
            body: the JSON body in pieces.
            length: its size in bytes.

        Raises:
            NotAccepted, OutcomeUnknown, PipelineRefused, FileRefused, FileTooLarge: see each.
        """
        try:
            return self._create(body, length)
        except BatchPipelineError as error:
            # Without its causes, which may quote the reply.
            raise self._hide(error) from None

    def _create(self, body: Iterator[bytes], length: int) -> Batch:
        try:
            reply = self._sender.post(
                BATCHES_PATH,
                content=self._in_time(body),
                cast_to=httpx2.Response,
                options={
                    "headers": {"Content-Type": "application/json", "Content-Length": str(length)},
                    "max_retries": 0,
                    "follow_redirects": False,
                },
            )
        except anthropic.APIStatusError as error:
            raise _refusal(error, self.base_url) from None
        except anthropic.APIConnectionError as error:
            if isinstance(error.__cause__, NotAccepted):
                raise error.__cause__ from None
            if isinstance(
                error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout
            ):
                raise NotAccepted(
                    f"{self.base_url} could not be reached: {error.__cause__}"
                ) from error
            raise OutcomeUnknown(
                f"no reply from {self.base_url}: {error.__cause__ or error}"
            ) from error
        except (httpx2.HTTPError, anthropic.AnthropicError, ValueError) as error:
            raise OutcomeUnknown(
                f"a reply from {self.base_url} that cannot be read: {error}"
            ) from error
        try:
            created = _batch(MessageBatch.construct(**reply.json()))
            return replace(created, endpoint=self._endpoint(reply.headers))
        except (AttributeError, TypeError, ValueError) as error:
            raise OutcomeUnknown(
                f"a reply from {self.base_url} that is no batch: {error}"
            ) from error

    def _in_time(self, body: Iterator[bytes]) -> Iterator[bytes]:
        """Pass an upload on, and break it off when it takes too long.

        What arrives short of its Content-Length is no request, so nothing can have been accepted.
        """
        started = time.monotonic()
        for chunk in body:
            if time.monotonic() - started > self._upload_seconds:
                raise NotAccepted(
                    f"the upload to {self.base_url} took longer than {self._upload_seconds:.0f} s and was broken "
                    "off; raise ClaudeBatches(timeout_seconds=...) or lower max_batch_bytes"
                )
            yield chunk

    def page(self, after: str | None = None, limit: int = PAGE) -> Page:
        """Return a page of the list, newest first, starting after the batch ``after``.

        Raises:
            HeldError: the key is refused.
            ApiUnavailable: no answer.
        """
        with _looking(self.base_url, self._hide):
            options: dict[str, Any] = {"after_id": after} if after else {}
            raw = self._client.messages.batches.with_raw_response.list(limit=limit, **options)
            listed = raw.parse()
            batches = [_batch(item) for item in listed.data]
        more = listed.last_id if listed.has_more and batches else None
        return Page(batches, more, _date(raw.headers.get("date")), self._endpoint(raw.headers))

    def retrieve(self, batch_id: str) -> Batch:
        """Return one batch.

        Raises:
            NoSuchBatch: the API does not know it.
            HeldError, ApiUnavailable: as ``page``.
        """
        with _looking(self.base_url, self._hide):
            return _batch(self._client.messages.batches.retrieve(batch_id))

    def cancel(self, batch_id: str) -> None:
        """Ask the API to cancel a batch; what it has answered by then is kept and paid for."""
        with _looking(self.base_url, self._hide):
            self._client.messages.batches.cancel(batch_id)

    def results(self, batch_id: str) -> Generator[bytes]:
        """Stream a batch's results as the API sends them, byte for byte.

        Only ``base_url`` is asked: a ``results_url`` that is not below it (a gateway's upstream, or
        worse) is replaced by the API's own path under ``base_url``.

        Raises:
            NoSuchBatch: the results are gone (29 days after creation) or the batch is.
            HeldError, ApiUnavailable: as ``page``; also when the stream breaks off.
        """
        with _looking(self.base_url, self._hide):
            batch = self._client.messages.batches.retrieve(batch_id)
            if not batch.results_url:
                raise NoSuchBatch(
                    f"the API has no results for {batch_id} any more (they are kept for 29 days)"
                )
            url = batch.results_url
            if not url.startswith(f"{self.base_url}/"):
                url = f"{BATCHES_PATH}/{quote(batch_id, safe='')}/results"
            try:
                response = self._client.get(
                    url,
                    cast_to=httpx2.Response,
                    options={"headers": STREAMED, "follow_redirects": False},
                )
            except anthropic.NotFoundError as error:
                # It says that there are results: a gateway without that route, or a passing fault.
                raise ApiUnavailable(
                    f"{self.base_url} knows {batch_id}, but answers 404 for its results. If that goes on, "
                    "look at what stands between here and the API; the answers are kept there for 29 days."
                ) from error
            try:
                yield from response.iter_bytes(CHUNK)
            finally:
                response.close()

    def count_tokens(self, params: Mapping[str, Any]) -> int:
        """Return how many input tokens a request has, as the API counts them, at no cost.

        Args:
            params: the request's parameters; the ones that make no input are left out.

        Raises:
            HeldError: the key is refused.
            ApiUnavailable: no answer, or the API does not count this request.
        """
        counted = {name: value for name, value in params.items() if name in COUNTED_PARAMS}
        with _looking(self.base_url, self._hide):
            reply = self._client.post(
                TOKENS_PATH,
                body=counted,
                cast_to=httpx2.Response,
                options={"follow_redirects": False},
            )
            return int(reply.json()["input_tokens"])

    def ask(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask one request now, through the Messages API, at full price. It is sent once.

        Args:
            params: the request's parameters.

        Returns:
            What a batch's results would say of it: ``{"type": "succeeded", "message": ...}``, or
            ``{"type": "errored", "error": ...}`` when the API refused this request.

        Raises:
            HeldError: the key is refused.
            ApiUnavailable: no answer; it may be paid for.
        """
        with _looking(self.base_url, self._hide):
            try:
                reply = self._client.post(
                    MESSAGES_PATH,
                    body=dict(params),
                    cast_to=httpx2.Response,
                    options={"max_retries": 0, "follow_redirects": False},
                )
            except anthropic.APIStatusError as error:
                if error.status_code in (401, 402, 403) or not isinstance(error.body, dict):
                    raise
                said = json.dumps(error.body).replace(self._key, "***")
                return {"type": "errored", "error": json.loads(said)}
            return {"type": "succeeded", "message": dict(reply.json())}

    def _hide(self, error: BatchPipelineError) -> BatchPipelineError:
        """Take the key out of an error's text: a server, or a gateway, may have quoted it."""
        error.args = (str(error).replace(self._key, "***"),)
        return error

    def _endpoint(self, headers: httpx2.Headers) -> Endpoint:
        names = (headers.get("anthropic-organization-id"), headers.get("anthropic-workspace-id"))
        return Endpoint(self.base_url, *(name or "" for name in names))

    def _make(self, api_key: str, timeout: float, *, keepalive: bool) -> anthropic.Anthropic:
        # None keeps a connection for as long as the server does.
        kept = None if keepalive else 0
        http_client = anthropic.DefaultHttpxClient(
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            event_hooks={"request": [self._guard]},
            limits=httpx2.Limits(max_keepalive_connections=kept),
            verify=_tls(),
            # A proxy of the environment would read what is not encrypted: the key, and all records.
            mounts={"http://": None},
        )
        return anthropic.Anthropic(
            api_key=api_key,
            base_url=self.base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            http_client=http_client,
        )

    def _guard(self, request: httpx2.Request) -> None:
        """Let no request, redirected or not, carry the key to another host."""
        if _origin(str(request.url)) != self._origin:
            raise httpx2.UnsupportedProtocol(f"refused to send the API key to {request.url.host}")


class _looking:
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
            return NoSuchBatch(f"{self.base_url} answers 404: {_message(error)}")
        if isinstance(error, anthropic.APIStatusError):
            if error.status_code in (401, 402, 403):
                return PipelineRefused(_account(error, self.base_url))
            text = f"{_message(error)}{_request_id(error)}"
            return ApiUnavailable(f"{self.base_url} answers {error.status_code}: {text}")
        if isinstance(error, anthropic.APIError | httpx2.HTTPError):
            cause = error.__cause__ or error
            return ApiUnavailable(
                f"{self.base_url} could not be asked ({type(cause).__name__}: {cause}). Check the "
                "network and ClaudeBatches(base_url=...); it is tried again later."
            )
        if isinstance(error, anthropic.AnthropicError | AttributeError | TypeError | ValueError):
            return ApiUnavailable(
                f"{self.base_url} sent something that is no Message Batches reply: {error}"
            )
        return None


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """One TLS context for the process: loading the certificates takes 25 ms."""
    return httpx2.create_ssl_context()


def _refusal(error: anthropic.APIStatusError, base_url: str) -> BatchPipelineError:
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


def _request_id(error: anthropic.APIStatusError) -> str:
    return f" [request {error.request_id}]" if error.request_id else ""


def _batch(item: MessageBatch) -> Batch:
    counts = item.request_counts
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(
        id=str(item.id),
        requests=int(total),
        created_at=_instant(item.created_at),
        expires_at=_instant(item.expires_at) if item.expires_at else None,
        ended_at=_instant(item.ended_at) if item.ended_at else None,
        ended=item.processing_status == "ended",
        has_results=bool(item.results_url),
    )


def _instant(value: datetime | str) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except ValueError:
        return None


def _seconds(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        moment = _date(header)
        return None if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
