"""Answering the requests of a batch: requests file in, results and bill files out."""

import hashlib
import mmap
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from batch_pipeline.emulator.answers import Answered, answer
from batch_pipeline.emulator.catalog import charge
from batch_pipeline.emulator.errors import ApiError, error_document
from batch_pipeline.emulator.lifecycle import Ending
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.outcomes import Draw, error_of, outcome_of
from batch_pipeline.emulator.params import check_params
from batch_pipeline.emulator.prompt import read_prompt
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
        options: Rates, answers and seed.
        caches: All prompt caches.
        ending: How the batch ends.
        check_open: Called now and then; raises when the work is to be given up.
    """

    batch_id: str
    seq: int
    workspace: str
    options: Options
    caches: PromptCaches
    ending: Ending
    check_open: Callable[[], None]

    def run(self, requests: Path, results: Path, bill: Path) -> Processed:
        """Answer every request of a file, in shuffled order, and write results and bill."""
        processed = Processed(Counter(), Decimal(0), 0)
        with results.open("wb") as result_lines, bill.open("wb") as bill_lines:
            for index, line in enumerate(self._shuffled(requests)):
                if index % 200 == 0:
                    self.check_open()
                request = orjson.loads(line)
                custom_id, params = request["custom_id"], request["params"]
                result = self._result_of(custom_id, params)
                row = _bill_row(self.batch_id, custom_id, params, result)
                processed.counts[result["type"]] += 1
                if row["usd"] is not None:
                    processed.usd += Decimal(row["usd"])
                elif result["type"] == "succeeded":
                    processed.unpriced += 1
                result_lines.write(orjson.dumps({"custom_id": custom_id, "result": result}))
                result_lines.write(b"\n")
                bill_lines.write(orjson.dumps(row))
                bill_lines.write(b"\n")
        return processed

    def _shuffled(self, requests: Path) -> Iterator[bytes]:
        with requests.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            starts = [0]
            while (newline := m.find(b"\n", starts[-1])) != -1:
                starts.append(newline + 1)
            order = list(range(len(starts) - 1))
            random.Random(f"{self.options.seed}/{self.seq}").shuffle(order)
            if order == sorted(order):
                order.reverse()  # A small batch must not come back in order by chance.
            for index in order:
                yield m[starts[index] : starts[index + 1]]

    def _result_of(self, custom_id: str, params: dict[str, Any]) -> dict[str, Any]:
        draw = Draw(self.options.seed)
        if self.ending.finished_share < 1 and not (
            draw("finished", custom_id) < self.ending.finished_share
        ):
            return {"type": self.ending.rest}
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
        check_params(params, batch=True)
        prompt = read_prompt(params)
        outcome = outcome_of(self.options, custom_id, prompt.user)
        if outcome in ("errored", "invalid"):
            raise error_of(outcome, self.options.seed, custom_id)
        if outcome == "expired":
            return None
        miss_rate = self.options.rates.get("cache_miss", 0.0)
        return answer(
            params,
            prompt,
            message_id="msg_" + self._identify(custom_id),
            style=self.options.answers,
            outcome=outcome,
            caches=self.caches,
            scope=self.workspace,
            now=self.ending.ended_at,
            batch=True,
            miss=lambda: Draw(self.options.seed)("cache_miss", custom_id) < miss_rate,
        )

    def _identify(self, custom_id: str) -> str:
        text = f"{self.batch_id}/{custom_id}".encode()
        return hashlib.blake2b(text, digest_size=12).hexdigest()


def digest_of_params(params: dict[str, Any]) -> str:
    """A fingerprint of a request that does not depend on the order of its keys."""
    return hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _bill_row(
    batch_id: str, custom_id: str, params: dict[str, Any], result: dict[str, Any]
) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "custom_id": custom_id,
        "params_sha256": digest_of_params(params),
        "result": result["type"],
        **billed(params.get("model"), result.get("message"), batch=True),
    }


def billed(model: Any, message: dict[str, Any] | None, *, batch: bool) -> dict[str, Any]:
    """Tokens and dollars of one request; `message` is None when it got no answer."""
    if message is None:
        return {"model": model, "usage": None, "usd": "0"}
    usd = charge(model, message["usage"], batch=batch)
    return {
        "model": model,
        "usage": message["usage"],
        "usd": None if usd is None else format(usd, "f"),
    }
