"""What must be true after a night, whatever went wrong in it, judged by the emulator's bill."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any

import orjson
from sqlalchemy import RowMapping, select

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.cost_unknown import CostUnknown, costs_unknown
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import request_files

NANO = Decimal(10) ** 9


@dataclass(frozen=True)
class Judgement:
    """What a night came to.

    Attributes:
        statuses: how many rows have which ``_status``.
        paid_twice: requests that were billed more than once, by custom_id.
        asked_again: further requests whose content was billed more than once, in two attempts.
        unknown: what the ledger says that it does not know the cost of.
        files: the ledger's request files.
    """

    statuses: Counter[str]
    paid_twice: int
    asked_again: int
    unknown: list[CostUnknown]
    files: list[RowMapping]


def judge(
    store: Store,
    rows: Mapping[Any, Mapping[str, Any]],
    prompts: Mapping[Any, str],
    emulator: EmulatorProcess,
) -> Judgement:
    """Assert what no fault excuses, and return what some faults do.

    Each record has one row, and each answer is its own. What the API charged this ledger's batches
    for is what the ledger tells, batch by batch, or the batch is in its list of unknown costs.

    Args:
        store: where the ledger is.
        rows: the results table by key (that no key has two is asserted where it is read).
        prompts: what was asked about each record of the source.
        emulator: who was paid; it answers with the digest of the prompt.
    """
    assert rows.keys() == prompts.keys(), f"without a row: {sorted(prompts.keys() - rows.keys())}"
    for key, row in rows.items():
        if row["_status"] == "answered":
            assert row["answer"] == sha256(prompts[key].encode()).hexdigest(), f"{key}: {row}"
        else:
            assert row["_error"], f"{key} has neither an answer nor a reason"
    ours = f"{store.ledger.id}-"
    paid = [
        line
        for line in emulator.billed_requests()
        if line["custom_id"].startswith(ours) and line["result"] == "succeeded"
    ]
    twice = _more_than_once(line["custom_id"] for line in paid)
    contents = _more_than_once(line["params_sha256"] for line in paid)
    files = list(store.ledger.rows(select(request_files)))
    unknown = costs_unknown(store)
    _compare(paid, files, unknown, _given_up(store, files, unknown))
    statuses = Counter(row["_status"] for row in rows.values())
    return Judgement(statuses, twice, contents - twice, unknown, files)


def _more_than_once(values: Iterable[str]) -> int:
    return sum(1 for times in Counter(values).values() if times > 1)


def _given_up(store: Store, files: list[RowMapping], unknown: list[CostUnknown]) -> set[str]:
    """The custom_ids of listed files that have no batch."""
    listed = {one.file for one in unknown if one.batch_id is None}
    found: set[str] = set()
    for file in files:
        if file["id"] in listed:
            with store.files.open(file["path"]) as lines:
                found |= {orjson.loads(line)["custom_id"] for line in lines}
    return found


def _compare(
    paid: list[dict[str, Any]],
    files: list[RowMapping],
    unknown: list[CostUnknown],
    given_up: set[str],
) -> None:
    """Assert that the ledger tells what the bill does, batch by batch."""
    bill: dict[str, Decimal] = defaultdict(Decimal)
    for line in paid:
        bill[line["batch_id"]] += Decimal(line["usd"])
    told = {
        file["batch_id"]: Decimal(file["cost_nanousd"] or 0) / NANO
        for file in files
        if file["batch_id"]
    }
    listed = {one.batch_id for one in unknown}
    # Of a file that was given up, the ledger has no id of the batch.
    listed |= {line["batch_id"] for line in paid if line["custom_id"] in given_up} - told.keys()
    for batch_id, usd in bill.items():
        known = told.get(batch_id)
        if batch_id in listed:
            assert (known or 0) < usd, f"{batch_id} is listed, though the ledger tells all of it"
        else:
            assert known is not None, f"{batch_id} cost ${usd}, and the ledger does not know it"
            assert abs(known - usd) < Decimal("1e-8"), f"{batch_id} cost ${usd}, not ${known}"
    for batch_id, known in told.items():
        assert not known or batch_id in bill, f"{batch_id} cost nothing, not ${known}"
