"""Ready requests as records: each line is asked as it is, and paid once."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import BatchPipeline, Budget, MessageTemplate, RequestFiles
from batch_pipeline.errors import InputError
from batch_pipeline.records.fingerprint import TooLongError, opened
from batch_pipeline.records.reading import open_source
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.correction import Correction, corrected
from batch_pipeline.results.judge import judge_line
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House

HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-5"


def line(custom_id: str, text: str = "hello", **params: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "params": {"model": HAIKU, "max_tokens": 100, "messages": messages, **params},
    }


def write(path: Path, *lines: dict[str, Any] | str) -> str:
    path.parent.mkdir(exist_ok=True)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    data = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def nights(house: House, **fields: Any):
    source = RequestFiles(str(house.folder / "requests" / "*.jsonl*"))
    return house.nights(**{"source": source, **fields})


def test_each_line_is_asked_as_it_is_and_a_changed_one_anew(house: House) -> None:
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "integer"}}, "required": ["z", "a"], "additionalProperties": False}}  # fmt: skip
    folder = house.folder / "requests"
    last = line("ä plain key", "ask", max_tokens=7)
    lines = [
        line("one", "first", stop_sequences=["zzz"]),
        line("two", "second", model=OPUS, max_tokens=900, output_config={"format": form}),
        line("three", "third", tools=[tool], tool_choice={"type": "tool", "name": "look"}),
    ]
    write(folder / "a.jsonl", *lines, "", line("bad", stream=True))
    write(folder / "b.jsonl.gz", last)
    run = nights(house, prices={HAIKU: {"input": 1, "output": 2}})
    run.night()
    sent = [
        one["params"]
        for batch in house.emulator.batches()
        for one in house.emulator.requests(batch["id"])
    ]
    asked = [one["params"] for one in (*lines, last)]
    assert sorted(map(json.dumps, sent)) == sorted(
        map(json.dumps, asked)
    )  # keys in their order, too
    rows = run.rows()
    assert {*rows} == {"one", "two", "three", "ä plain key", "bad"}
    assert list(rows["one"])[:4] == ["custom_id", "answer", "tool_calls", "citations"]
    assert not [name for name in rows["one"] if name.startswith("_bp")]
    assert rows["bad"]["_status"] == "rejected" and "'stream'" in rows["bad"]["_error"]
    others = {key: (row["_status"], row["_error"]) for key, row in rows.items() if key != "bad"}
    assert {*others.values()} == {("answered", None)}
    assert json.loads(rows["two"]["answer"]).keys() == {"z", "a"}
    assert rows["two"]["_model"] == OPUS and rows["one"]["tool_calls"] is None
    assert json.loads(rows["three"]["tool_calls"])[0]["name"] == "look"
    one = rows["one"]
    own = (one["_input_tokens"] * 1 + one["_output_tokens"] * 2) / 1e6
    assert one["_cost_usd"] == pytest.approx(own)
    assert rows["two"]["_cost_usd"] > 0
    # Another order of the same, in another file, is the same; other tokens are not.
    shuffled = {"params": dict(reversed(lines[0]["params"].items())), "custom_id": "one"}
    write(folder / "a.jsonl", lines[1], line("bad", stream=True))
    write(folder / "c.jsonl", shuffled, {**lines[2], "params": {**lines[2]["params"], "max_tokens": 101}})  # fmt: skip
    nights(house).night()
    assert house.paid == 5
    assert {batch["request_counts"]["succeeded"] for batch in house.emulator.batches()} == {4, 1}


@only_whole
def test_what_is_cut_short_waits_for_a_line_that_allows_more(house: House) -> None:
    folder = house.folder / "requests"
    house.emulator.configure(rates={"truncated": 1.0})
    write(folder / "a.jsonl", line("one"), line("two", "same"), line("three", "same"))
    run = nights(house)
    run.night()
    run.night()
    assert house.paid == 2  # two lines ask the same, which is asked once
    assert house.statuses() == {"truncated": 3}
    house.emulator.configure(rates={})
    write(
        folder / "a.jsonl", line("one", max_tokens=900), line("two", "same"), line("three", "same")
    )
    run.night()
    assert house.paid == 3 and run.rows()["one"]["_status"] == "answered"


def test_an_estimate_goes_by_the_model_and_the_tokens_of_each_line(house: House) -> None:
    folder = house.folder / "requests"
    prices = {"small": {"input": 1, "output": 10}, "large": {"input": 100, "output": 1000}}
    dear = line("c", model="large", max_tokens=1000)
    write(
        folder / "a.jsonl", line("a", model="small", max_tokens=100), line("b", "x", model="small")
    )
    write(folder / "b.jsonl", dear)
    run = nights(house, prices=prices, budget=Budget(per_submission_usd=1.0))
    run.select("records", "requests")
    shown = run.metadata("requests")
    assert shown["output_tokens_at_most"] == 1200
    assert 1.002 < shown["estimated_usd_at_most"] < 1.1  # 1,000 tokens for $1, 200 for $0.002
    run.select("batches")
    assert house.emulator.batches() == []  # the cap holds it
    [weight] = [
        row[0] for row in _ledger(house, "select weight from request_files where kind = 'batch'")
    ]
    stored = json.loads(weight)
    assert stored["model"] == "small" and stored["others"][0]["model"] == "large"


@pytest.mark.parametrize(
    "blocks", [[], [{"type": "thinking", "thinking": "x"}], [{"type": "text", "text": ""}]]
)
def test_an_answer_without_words_leaves_a_line_as_it_is(blocks: list[dict[str, Any]]) -> None:
    message = {"content": blocks, "model": HAIKU, "usage": {}, "stop_reason": "end_turn"}
    result = {"type": "succeeded", "message": message}
    said = json.dumps({"custom_id": "a", "result": result}).encode()
    judged = judge_line(said, None, datetime.now(UTC), tools=True)
    assert judged is not None and judged.status == "invalid" and judged.error
    # `correct_invalid` goes on from what was said: from nothing here.
    assert corrected({"messages": []}, Correction(json.dumps(blocks), judged.error)) is None


def test_the_results_of_ready_requests_are_the_source_of_another_question() -> None:
    first = BatchPipeline(name="first", source=RequestFiles("requests/*.jsonl"))
    asked = MessageTemplate(model=HAIKU, max_tokens=9, prompt="Is this polite? {{ answer }}")
    second = BatchPipeline(name="second", source=first.results(), request=asked)
    assert second.source.keys == ("custom_id",)
    # What a variant asked before, of another source, is still looked up by its own key.
    assert first.as_asked("short").source.keys == ("custom_id", "_variant")


def _ledger(house: House, sql: str) -> list[Any]:
    import sqlite3

    with sqlite3.connect(house.root / "ledger.sqlite") as connection:
        return connection.execute(sql).fetchall()


LINE = json.dumps(line("x"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([LINE, "", LINE[:-5]], "a.jsonl, line 3 is no JSON"),
        (["\ufeff" + LINE], "line 1 is no JSON"),
        ([LINE, "[1]"], "line 2 is JSON, but no object"),
        (['{"params": {}}'], "line 1 has no custom_id"),
        (['{"custom_id": 7, "params": {}}'], "line 1 has the custom_id 7, which is no text"),
        (['{"custom_id": "x"}'], "line 1 has no params"),
        (
            [
                LINE.replace("100", "18446744073709551615"),
                LINE.replace("100", "-9223372036854775809"),
            ],
            "line 2 has the number -9223372036854775809, which has more than 64 bits",
        ),
        (['{"custom_id": "x", "params": []}'], "line 1 has params that are no object"),
        (['{"custom_id": "x", "params": {}, "url": "/v1"}'], "line 1 has `url` beside"),
        (
            [LINE.replace("hello", "1" * 30), LINE.replace('"x"', '"y"'), LINE],
            "x ({0}, line 1 and {0}, line 3)",
        ),
        (None, "No file of requests matches"),
    ],
)
@pytest.mark.every_form
def test_a_line_that_is_no_request_is_named_before_any_money(
    tmp_path: Path, lines: list[str] | None, said: str
) -> None:
    path = str(tmp_path / "a.jsonl")
    if lines is not None:
        write(tmp_path / "a.jsonl", *lines)
    with pytest.raises(InputError) as error, open_source(RequestFiles(path)):
        pass
    assert said.format(path) in str(error.value)


def test_a_damaged_archive_is_named_and_a_folder_holds_all_its_files(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a.jsonl", line("a"))
    write(tmp_path / "b.jsonl.gz", line("b"))
    write(tmp_path / "_c.jsonl", line("c"))
    with open_source(RequestFiles(str(tmp_path))) as connection:
        assert connection.execute("select custom_id from source order by 1").fetchall() == [("a",), ("b",)]  # fmt: skip
    with pytest.raises(TooLongError), opened(RequestFiles(str(tmp_path)), -1.0):
        pass
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="gz cannot be read"):
        with open_source(RequestFiles(str(tmp_path))):
            pass


def test_what_does_not_go_with_ready_requests_is_refused_when_declared() -> None:
    source = RequestFiles("requests/*.jsonl")
    asked = MessageTemplate(model="m", max_tokens=1, prompt="{{ a }}")
    with pytest.raises(InputError, match="Leave out request"):
        BatchPipeline(name="p", source=source, request=asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lines are asked as they are, and variants"):
        BatchPipeline(name="p", source=source, variants={"a": {"system": "Be short."}})
    with pytest.raises(InputError, match="request is missing"):
        BatchPipeline(name="p", source=object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="betas must be a list"):
        RequestFiles("a", betas="one")
    with pytest.raises(InputError, match="needs the path"):
        RequestFiles("")
    pipeline = BatchPipeline(name="p", source=source)
    question = compile_question(pipeline.request, {})
    assert question.version == question.request_hash == "99107cf3ad1d1db0"
    assert question.output_columns == [
        ("answer", "VARCHAR"),
        ("tool_calls", "JSON"),
        ("citations", "JSON"),
    ]
