"""The plain SDK loop: what one writes without this project. All of it is in this file.

Dictionaries, ``create``, ``results()``, a pandas join. It keeps no ledger, so a lost reply or a crash
pays again; it asks everything every night. Each batch is built just before it is sent, so that
not all requests are in memory together.
"""

import time
from typing import Any

import anthropic
import duckdb
import pandas as pd
from anthropic.types.messages import MessageBatchIndividualResponse
from pydantic import ValidationError

from benchmarks.meter import Meter
from benchmarks.night import TABLE, Night
from benchmarks.question import MAX_TOKENS, MODEL, SYSTEM, USD_IN, USD_OUT, Entry

OUTPUT_CONFIG = {
    "format": {"type": "json_schema", "schema": anthropic.transform_schema(Entry)},
}


def play(night: Night, meter: Meter) -> None:
    """Ask about all records, and write them with their answers."""
    client = anthropic.Anthropic(api_key="any-key", base_url=night.url)
    with meter.stage("read"):
        frame = read(night)
    batch_ids = []
    for start in range(0, len(frame), night.requests_per_batch):
        with meter.stage("build"):
            part = frame.iloc[start : start + night.requests_per_batch]
            requests: list[Any] = [
                {
                    "custom_id": f"record-{record['id']}",
                    "params": params(record, structured=night.structured),
                }
                for record in part.to_dict("records")
            ]
        with meter.stage("create"):
            batch_ids.append(client.messages.batches.create(requests=requests).id)
    with meter.stage("wait"):
        for batch_id in batch_ids:
            while client.messages.batches.retrieve(batch_id).processing_status != "ended":
                time.sleep(1)
    with meter.stage("results"):
        rows = [
            row_of(line, structured=night.structured)
            for batch_id in batch_ids
            for line in client.messages.batches.results(batch_id)
        ]
    with meter.stage("join"):
        answers = pd.DataFrame(rows)
        answers["cost_usd"] = answers.input_tokens * USD_IN + answers.output_tokens * USD_OUT
        write(night, frame.merge(answers, on="id", how="left"))


def read(night: Night) -> pd.DataFrame:
    """Return all records."""
    if night.destination == "parquet":
        return pd.read_parquet(night.records)
    with duckdb.connect(night.warehouse, read_only=True) as warehouse:
        return warehouse.execute(f"select * from {TABLE}").df()


def params(record: dict[Any, Any], *, structured: bool) -> dict[str, Any]:
    """Return what is asked about a record."""
    prompt = (
        f"Package: {record['package']}\n"
        f"Summary: {record['summary']}\n"
        f"Installed size: {record['installed_kb']} kB\n"
        f"Description: {record['description']}"
    )
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "system": SYSTEM,
        "messages": [{"role": "user", "content": prompt}],
    }
    if structured:
        asked["output_config"] = OUTPUT_CONFIG
    return asked


def row_of(line: MessageBatchIndividualResponse, *, structured: bool) -> dict[str, Any]:
    """Return the columns of an answer."""
    row: dict[str, Any] = {"id": int(line.custom_id.removeprefix("record-"))}
    result = line.result
    if result.type != "succeeded":
        row["status"] = result.type
        if result.type == "errored":
            row["error"] = result.error.error.message
        return row
    message = result.message
    row["model"] = message.model
    row["stop_reason"] = message.stop_reason
    row["input_tokens"] = message.usage.input_tokens
    row["output_tokens"] = message.usage.output_tokens
    row["cache_read_tokens"] = message.usage.cache_read_input_tokens
    row["cache_write_tokens"] = message.usage.cache_creation_input_tokens
    if message.stop_reason != "end_turn":
        row["status"] = "refused" if message.stop_reason == "refusal" else "truncated"
        return row
    text = "".join(block.text for block in message.content if block.type == "text")
    if not structured:
        return row | {"status": "answered", "answer": text}
    try:
        entry = Entry.model_validate_json(text)
    except ValidationError as error:
        return row | {"status": "invalid", "error": str(error)}
    return row | {"status": "answered"} | entry.model_dump()


def write(night: Night, joined: pd.DataFrame) -> None:
    """Write the table."""
    if night.destination == "parquet":
        joined.to_parquet(f"{night.folder}/loop_answers.parquet", index=False)
        return
    with duckdb.connect(night.warehouse) as warehouse:
        warehouse.register("joined", joined)
        warehouse.execute("create or replace table loop_answers as select * from joined")
