"""Answering the requests of a batch: requests in, results and bill out, a line each."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.emulator.answers import Answered
from batch_pipeline.emulator.catalog import charge
from batch_pipeline.emulator.errors import ApiError, error_document
from batch_pipeline.emulator.lifecycle import Ending
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.respond import respond
from batch_pipeline.emulator.rules import Occasion
from batch_pipeline.emulator.spool import Spool, Text
from batch_pipeline.emulator.usage import PromptCaches


@dataclass
class Processed:
    """What came of a batch."""

    counts: Counter[str]
    usd: Decimal
    unpriced: int


@dataclass
class Processor:
    """Answers the requests of one batch.

    Attributes:
        batch_id: Id of the batch.
        seq: Its place in the order of creation; with the seed it decides the order of results.
        workspace: Whose caches are used.
        occasion: How the batch was sent.
        options: Rates, answers and seed.
        caches: All prompt caches.
        ending: How the batch ends.
        check_open: Called now and then; raises when the work is to be given up.
    """

    batch_id: str
    seq: int
    workspace: str
    occasion: Occasion
    options: Options
    caches: PromptCaches
    ending: Ending
    check_open: Callable[[], None]

    def run(self, requests: Text, results: Spool, bill: Spool) -> Processed:
        """Answer every request, in shuffled order, and write results and bill."""
        processed = Processed(Counter(), Decimal(0), 0)
        for number, (line, finished) in enumerate(self._shuffled(requests)):
            if number % 200 == 0:
                self.check_open()
            request = orjson.loads(line)
            custom_id, params = request["custom_id"], request["params"]
            result = self._result_of(custom_id, params) if finished else {"type": self.ending.rest}
            row = _bill_row(self.batch_id, custom_id, params, result, line)
            processed.counts[result["type"]] += 1
            if row["usd"] is not None:
                processed.usd += Decimal(row["usd"])
            elif result["type"] == "succeeded":
                processed.unpriced += 1
            results.write(orjson.dumps({"custom_id": custom_id, "result": result}) + b"\n")
            bill.write(orjson.dumps(row) + b"\n")
        return processed

    def _shuffled(self, requests: Text) -> Iterator[tuple[bytes, bool]]:
        """Each request, and whether it was processed before the batch ended."""
        starts = [0]
        while (newline := requests.find(b"\n", starts[-1])) != -1:
            starts.append(newline + 1)
        order = list(range(len(starts) - 1))
        finished = self._finished(len(order))
        random.Random(f"{self.options.seed}/{self.seq}").shuffle(order)
        if order == sorted(order):
            order.reverse()  # A small batch must not come back in order by chance.
        for index in order:
            yield requests[starts[index] : starts[index + 1]], index in finished

    def _finished(self, count: int) -> Collection[int]:
        """Which of so many requests were processed. Part of them is some, and not all."""
        share = min(max(self.ending.finished_share, 0.0), 1.0)
        done = round(count * share)
        if 0 < share < 1 and count > 1:
            done = min(max(done, 1), count - 1)
        if done == count:
            return range(count)
        rng = random.Random(f"{self.options.seed}/{self.seq}/finished")
        return frozenset(rng.sample(range(count), done))

    def _result_of(self, custom_id: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            answered = self._answer(custom_id, params)
        except ApiError as error:
            request_id = "req_" + self._identify(custom_id)
            nested = error_document(error.type, error.message, request_id, error.details)
            return {"type": "errored", "error": nested}
        if answered is None:
            return {"type": "expired"}
        return {"type": "succeeded", "message": answered}

    def _answer(self, custom_id: str, params: dict[str, Any]) -> Answered | None:
        return respond(
            params,
            occasion=self.occasion,
            options=self.options,
            custom_id=custom_id,
            message_id="msg_" + self._identify(custom_id),
            caches=self.caches,
            scope=self.workspace,
            now=self.ending.ended_at,
        )

    def _identify(self, custom_id: str) -> str:
        text = f"{self.batch_id}/{custom_id}".encode()
        return hashlib.blake2b(text, digest_size=12).hexdigest()


def digest_of_params(params: dict[str, Any], text: bytes) -> str:
    """A fingerprint of a request that does not depend on the order of its keys.

    Args:
        params: Parameters of the request.
        text: The request as it was sent: what is too deep to be written is told apart by this.
    """
    try:
        text = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        pass
    return hashlib.sha256(text).hexdigest()


def _bill_row(
    batch_id: str, custom_id: str, params: dict[str, Any], result: dict[str, Any], line: bytes
) -> dict[str, Any]:
    model = params.get("model")
    return {
        "batch_id": batch_id,
        "custom_id": custom_id,
        "params_sha256": digest_of_params(params, line),
        "result": result["type"],
        **billed(model if isinstance(model, str) else None, result.get("message"), batch=True),
    }


def billed(model: str | None, message: dict[str, Any] | None, *, batch: bool) -> dict[str, Any]:
    """Tokens and dollars of one request; `message` is None when it got no answer."""
    if message is None or model is None:
        return {"model": model, "usage": None, "usd": "0"}
    usd = charge(model, message["usage"], batch=batch)
    return {
        "model": model,
        "usage": message["usage"],
        "usd": None if usd is None else format(usd, "f"),
    }
