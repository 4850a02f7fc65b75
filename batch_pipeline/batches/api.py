"""All talk with the Message Batches API. Only this module and ``wire`` import the anthropic SDK.

Creating a batch is never retried here and no redirect is followed: there is no idempotency key, so
only the caller, who knows the ledger, may decide to send again. Its outcome is one of five
exceptions of ``outcome``, or a batch; each says what is known about the money.
"""

import json
import math
import ssl
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from batch_pipeline.batches.bounded import Deadline, bind, bound_reply
from batch_pipeline.batches.headers import BETA_HEADER, USER_PROFILE_HEADER
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch, NotAccepted, OutcomeUnknown
from batch_pipeline.batches.wire import (
    Batch,
    Page,
    as_list,
    batch_of,
    message_refusal,
    moment_of,
    reading,
    refusal,
    refused_request,
)
from batch_pipeline.errors import BatchPipelineError, plain
from batch_pipeline.store.submissions import Endpoint

MESSAGES_PATH = "/v1/messages"
BATCHES_PATH = f"{MESSAGES_PATH}/batches"
MODELS_PATH = "/v1/models"
TOKENS_PATH = f"{MESSAGES_PATH}/count_tokens"
COUNTED_PARAMS = (
    "model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control",
    "context_management", "mcp_servers", "compaction",
)  # fmt: skip
"""What the API takes for counting; other parameters are a 400 there. The last three it takes with their
betas, as in a batch (SDK types/beta/message_count_tokens_params.py)."""
SHORTEST_SECRET = 8
"""Characters that the value of a header has at least to be taken out of errors, which quote shorter words."""
PAGE = 1000  # the list's largest page (API reference: limit 1..1000)
CHUNK = 1 << 20
CONNECT_SECONDS = 5.0
# What the SDK itself uses to hand out a response whose body is not read yet; results are hundreds
# of MB.
STREAMED = {"X-Stainless-Raw-Response": "stream", "Accept": "application/binary"}


class BatchesApi:
    """The API as one endpoint sees it.

    Args:
        api_key: the key; it is sent to ``base_url`` and to nobody else.
        base_url: where the API is.
        timeout_seconds: how long one call may take.
        patient: let the SDK repeat failed look-ups; not for a sensor, which has little time.
        budget_seconds: how long all calls together may take, from now on; a sensor's tick has a
            minute for everything.
        aliases: other addresses of the same API.
        headers: further headers of every call.
        user_profile: whom batches, and single requests, are made for.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str,
        timeout_seconds: float,
        *,
        patient: bool = True,
        budget_seconds: float = math.inf,
        aliases: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        user_profile: str | None = None,
    ):
        self.base_url = base_url.rstrip("/")
        self.aliases = tuple(aliases)
        self._stored: dict[tuple[str, str], Endpoint] = {}
        self._origin = _origin(self.base_url)
        self._key = api_key
        self.betas: tuple[str, ...] = ()  # see `with_betas`
        self._headers = dict(headers or {})
        self._asking = {USER_PROFILE_HEADER: user_profile} if user_profile else {}
        # Longer ones first: one may be a part of another.
        secrets = [one for one in self._headers.values() if len(one) >= SHORTEST_SECRET]
        self._secrets = [api_key, *sorted(secrets, key=len, reverse=True)]
        self._timeout = timeout_seconds
        self._deadline = Deadline(budget_seconds)
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

    def with_betas(self, betas: Sequence[str]) -> "BatchesApi":
        """Return this connection with betas that each call about requests and their batch names."""
        if not betas:
            return self
        other = copy(self)
        other.betas = tuple(betas)
        return other

    def is_known_as(self, seen: Endpoint, stored: Endpoint) -> None:
        """Name an account of this address as a ledger does from now on, in every reply."""
        self._stored[seen.organization, seen.workspace] = stored

    def identify(self) -> Endpoint:
        """Ask the API who we are to it: one list call of one batch.

        Raises:
            HeldError: the key is refused.
            ApiUnavailable: no answer.
        """
        with self._reading():
            raw = self._client.messages.batches.with_raw_response.list(limit=1)
            # Anything may answer 200: only a list of batches is an answer of this API.
            as_list(raw.parse())
        return self._endpoint(raw.headers)

    def create(self, body: Iterator[bytes], length: int) -> Batch:
        """Create a batch from a body that is streamed, once.

        Args:
            body: the JSON body in pieces.
            length: its size in bytes.

        Raises:
            NotAccepted, OutcomeUnknown, PipelineRefused, FileRefused, FileTooLarge: see each.
        """
        self._deadline.begin(self._timeout)
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
                    "headers": {
                        "Content-Type": "application/json",
                        "Content-Length": str(length),
                        **self._asking,
                        **self._named(),
                    },
                    "max_retries": 0,
                    "follow_redirects": False,
                },
            )
        except anthropic.APIStatusError as error:
            raise refusal(error, self.base_url) from None
        except anthropic.APIConnectionError as error:
            if isinstance(error.__cause__, NotAccepted):
                raise error.__cause__ from None
            raise _connection_trouble(error, self.base_url) from error
        except (httpx2.HTTPError, anthropic.AnthropicError, ValueError) as error:
            raise OutcomeUnknown(
                f"a reply from {self.base_url} that cannot be read: {error}"
            ) from error
        try:
            created = batch_of(MessageBatch.construct(**reply.json()))
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
        with self._reading():
            options: dict[str, Any] = {"after_id": after} if after else {}
            raw = self._client.messages.batches.with_raw_response.list(limit=limit, **options)
            batches, more = as_list(raw.parse())
        return Page(batches, more, moment_of(raw.headers.get("date")), self._endpoint(raw.headers))

    def retrieve(self, batch_id: str) -> Batch:
        """Return one batch.

        Raises:
            NoSuchBatch: the API does not know it.
            HeldError, ApiUnavailable: as ``page``.
        """
        with self._reading():
            found = batch_of(
                self._client.messages.batches.retrieve(batch_id, extra_headers=self._named())
            )
            if found.id != batch_id:
                raise ApiUnavailable(
                    f"{self.base_url} was asked about {batch_id} and answers about {found.id}"
                )
            return found

    def cancel(self, batch_id: str) -> None:
        """Ask the API to cancel a batch; what it has answered by then is kept and paid for."""
        with self._reading():
            self._client.messages.batches.cancel(batch_id)

    def results(self, batch_id: str) -> Generator[bytes]:
        """Stream a batch's results as the API sends them, byte for byte.

        Only ``base_url`` is asked: a ``results_url`` that is not below it (a gateway's upstream, or
        worse) is replaced by the API's own path under ``base_url``.

        Raises:
            NoSuchBatch: the results are gone (29 days after creation) or the batch is.
            HeldError, ApiUnavailable: as ``page``; also when the stream breaks off.
        """
        with self._reading():
            named = self._named()
            batch = self._client.messages.batches.retrieve(batch_id, extra_headers=named)
            if not batch_of(batch).ended:
                raise ApiUnavailable(
                    f"{self.base_url} showed {batch_id} as ended, and now says {batch.processing_status}"
                )
            if not batch.results_url and batch.archived_at:
                raise NoSuchBatch(
                    f"the API has no results for {batch_id} any more (they are kept for 29 days)"
                )
            url = batch.results_url
            if not isinstance(url, str) or not url.startswith(f"{self.base_url}/"):
                url = f"{BATCHES_PATH}/{quote(batch_id, safe='')}/results"
            try:
                response = self._client.get(
                    url,
                    cast_to=httpx2.Response,
                    options={"headers": {**STREAMED, **named}, "follow_redirects": False},
                )
            except anthropic.NotFoundError as error:
                # It says that there are results: a gateway without that route, or a passing fault.
                raise ApiUnavailable(
                    f"{self.base_url} knows {batch_id}, but answers 404 for its results. If that goes on, "
                    "look at what stands between here and the API; the answers are kept there for 29 days."
                ) from error
            until = self._deadline.until
            try:
                for chunk in response.iter_bytes(CHUNK):
                    yield chunk
                    self._deadline.until = until  # another call may have had its own meanwhile
            finally:
                response.close()

    def count_tokens(self, params: Mapping[str, Any]) -> int:
        """Return how many input tokens a request has, as the API counts them, at no cost.

        Args:
            params: the request's parameters; the ones that make no input are left out.

        Raises:
            HeldError: the key is refused.
            RequestRefused: the API finds something wrong with it.
            ApiUnavailable: no answer, or the API does not count this request.
        """
        counted = {name: value for name, value in params.items() if name in COUNTED_PARAMS}
        with self._reading():
            try:
                reply = self._client.post(
                    TOKENS_PATH,
                    body=counted,
                    cast_to=httpx2.Response,
                    options={
                        "headers": {**self._asking, **self._named()},
                        "follow_redirects": False,
                    },
                )
            except (anthropic.BadRequestError, anthropic.NotFoundError) as error:
                if (refused := refused_request(error, self.base_url)) is None:
                    raise
                refused.said = self._without_secrets(refused.said)
                raise self._hide(refused) from None
            return int(reply.json()["input_tokens"])

    def longest_answer(self, model: str) -> int | None:
        """Return how many tokens a model gives at most; None when the API knows no model of this name.

        Raises:
            HeldError, ApiUnavailable: as ``page``; also when it does not say.
        """
        with self._reading():
            try:
                reply = self._look(f"{MODELS_PATH}/{quote(model, safe='')}")
            except anthropic.NotFoundError as error:
                if refused_request(error, self.base_url) is None:
                    raise
                return None
            longest = reply.json()["max_tokens"]
            if type(longest) is not int or longest < 1:
                raise ValueError(f"a model that gives {plain(repr(longest))[:80]} tokens")
            return longest

    def model_names(self) -> list[str]:
        """Return the names of the models that the API lists.

        Raises:
            HeldError, ApiUnavailable: as ``page``.
        """
        with self._reading():
            listed = self._look(f"{MODELS_PATH}?limit={PAGE}").json()["data"]
            return [str(one["id"]) for one in listed]

    def _look(self, path: str) -> httpx2.Response:
        return self._client.get(path, cast_to=httpx2.Response, options={"follow_redirects": False})

    def report(self, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of one of the Admin API's reports; the key must be an admin key.

        Args:
            path: of the report.
            query: what it is asked for; a list is a parameter that comes several times.

        Raises:
            NoSuchBatch: there is no such report here.
            HeldError: the key is refused.
            ApiUnavailable: no answer.
        """
        with self._reading():
            reply = self._client.get(
                f"{path}?{urlencode(query, doseq=True)}",
                cast_to=httpx2.Response,
                options={"follow_redirects": False},
            )
            return dict(reply.json())

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
        with self._reading():
            try:
                reply = self._client.post(
                    MESSAGES_PATH,
                    body=dict(params),
                    cast_to=httpx2.Response,
                    options={
                        "headers": {**self._asking, **self._named()},
                        "max_retries": 0,
                        "follow_redirects": False,
                    },
                )
            except anthropic.APIStatusError as error:
                if error.status_code in (401, 402, 403) or not isinstance(error.body, dict):
                    raise
                said = self._without_secrets(json.dumps(error.body))
                return {"type": "errored", "error": json.loads(said)}
            return {"type": "succeeded", "message": dict(reply.json())}

    def message(self, params: Mapping[str, Any]) -> bytes:
        """Ask one request now, at full price. It is sent once; nothing asks it again.

        Args:
            params: the request's parameters.

        Returns:
            What a batch's results would say of it, as JSON on one line: that it succeeded, with the message byte
            for byte, or that it errored, with the API's error.

        Raises:
            NotAccepted: it was not taken, and is not billed.
            OutcomeUnknown: no reply, or one that proves nothing: it may be billed.
            PipelineRefused: the API refuses this account or key.
        """
        self._deadline.begin(self._timeout)
        try:
            # The reply must be whole, not a stream of events.
            return self._message({**params, "stream": False} if "stream" in params else params)
        except BatchPipelineError as error:
            raise self._hide(error) from None

    def _message(self, params: Mapping[str, Any]) -> bytes:
        try:
            reply = self._sender.post(
                MESSAGES_PATH,
                content=json.dumps(params).encode(),
                cast_to=httpx2.Response,
                options={
                    "headers": {
                        "Content-Type": "application/json",
                        **self._asking,
                        **self._named(),
                    },
                    "max_retries": 0,
                    "follow_redirects": False,
                    "timeout": httpx2.Timeout(self._timeout, connect=CONNECT_SECONDS),
                },
            )
        except anthropic.APIStatusError as error:
            if (refused := message_refusal(error, self.base_url)) is not None:
                raise refused from None
            said = self._without_secrets(json.dumps(error.body))
            return f'{{"type":"errored","error":{said}}}'.encode()
        except anthropic.APIConnectionError as error:
            raise _connection_trouble(error, self.base_url) from error
        except (httpx2.HTTPError, anthropic.AnthropicError, ValueError) as error:
            raise OutcomeUnknown(
                f"a reply from {self.base_url} that cannot be read: {error}"
            ) from error
        try:
            said = reply.content
            if json.loads(said)["type"] != "message":
                raise ValueError("it is no message")
        except (LookupError, TypeError, ValueError, RecursionError, httpx2.HTTPError) as error:
            raise OutcomeUnknown(
                f"a reply from {self.base_url} that is no message: {error}"
            ) from error
        # Line ends in it can only stand between its parts.
        flat = said.replace(b"\n", b" ").replace(b"\r", b" ")
        return b'{"type":"succeeded","message":' + flat + b"}"

    def _reading(self) -> reading:
        """Begin a look: all of it has one deadline."""
        self._deadline.begin(self._timeout)
        return reading(self.base_url, self._hide)

    def _hide(self, error: BatchPipelineError) -> BatchPipelineError:
        """Take the key out of an error's text: a server, or a gateway, may have quoted it."""
        error.args = (self._without_secrets(str(error)),)
        return error

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _named(self) -> dict[str, str]:
        """Return the header that names the betas, beside those of ``ANTHROPIC_CUSTOM_HEADERS``."""
        if not self.betas:
            return {}
        always = self._client.default_headers.get(BETA_HEADER)
        named = [*always.split(","), *self.betas] if isinstance(always, str) else self.betas
        return {BETA_HEADER: ",".join(dict.fromkeys(one.strip() for one in named))}

    def _endpoint(self, headers: httpx2.Headers) -> Endpoint:
        names = (headers.get("anthropic-organization-id"), headers.get("anthropic-workspace-id"))
        account = names[0] or "", names[1] or ""
        return self._stored.get(account) or Endpoint(self.base_url, *account)

    def _make(self, api_key: str, timeout: float, *, keepalive: bool) -> anthropic.Anthropic:
        # None keeps a connection for as long as the server does.
        kept = None if keepalive else 0
        http_client = anthropic.DefaultHttpxClient(
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            event_hooks={"request": [self._guard], "response": [bound_reply]},
            limits=httpx2.Limits(max_keepalive_connections=kept),
            verify=_tls(),
            # A proxy of the environment would read what is not encrypted: the key, and all records.
            mounts={"http://": None},
        )
        bind(http_client, self._deadline)
        return anthropic.Anthropic(
            api_key=api_key,
            base_url=self.base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            http_client=http_client,
            # What is packed in any other way is not unpacked; see ``bounded``.
            default_headers={**self._headers, "Accept-Encoding": "gzip"},
        )

    def _guard(self, request: httpx2.Request) -> None:
        """Let no request, redirected or not, carry the key to another host."""
        if _origin(str(request.url)) != self._origin:
            raise httpx2.UnsupportedProtocol(f"refused to send the API key to {request.url.host}")


def _connection_trouble(
    error: anthropic.APIConnectionError, base_url: str
) -> NotAccepted | OutcomeUnknown:
    """Return what a connection that failed says about the call: whether the API can have got it."""
    cause = error.__cause__
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return NotAccepted(f"{base_url} could not be reached: {cause}")
    return OutcomeUnknown(f"no reply from {base_url}: {cause or error}")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """One TLS context for the process: loading the certificates takes 25 ms."""
    return httpx2.create_ssl_context()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
