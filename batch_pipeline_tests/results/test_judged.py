"""Answers are judged while they are counted: they are taken for whole if, and only if, the count says so."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batch_pipeline.batches import lines as bounded
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results import judge
from batch_pipeline.results.download import Lines, read_local
from batch_pipeline.results.file_records import Requested
from batch_pipeline.results.join import Batch
from batch_pipeline.results.judged import JudgedAnswers
from batch_pipeline.results.question import Question
from batch_pipeline_tests.support.extent import extent

NOW = datetime(2026, 11, 20, tzinfo=UTC)
FILES = extent(120, 1_500)
ASKED = [f"1a2b3c4d-{number:016x}-1" for number in range(5)]
SCHEMA = OutputSchema.from_({"type": "object", "properties": {"n": {"type": "number"}}})


def line(custom_id: Any, said: str) -> bytes:
    message = {
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": said}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    result = {"type": "succeeded", "message": message}
    return json.dumps({"custom_id": custom_id, "result": result}).encode()


def changed(lines: list[bytes], chance: random.Random) -> bytes:
    """Return a file of these lines, after something happened to it, or nothing."""
    at = chance.randrange(len(lines))
    one = lines[at]
    cut = chance.randrange(len(one))
    match chance.randrange(14):
        case 0:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines)), one)
        case 2:
            lines[at] = one[:cut]
        case 3:
            lines[at] = one[:cut] + bytes([chance.randrange(256)]) + one[cut + 1 :]
        case 4:
            lines[at] = line(chance.choice(["someone else's", 5, None]), "no")
        case 5:
            lines.insert(at, line("someone else's", "no"))
        case 6:
            lines.insert(
                at, chance.choice([b"", b"  ", b"\r", b"null", b"[1]", b'{"custom_id":5}'])
            )
        case 7:
            lines[at] = one.replace(b"said", rb"\ud83d")  # half of a pair of surrogates
        case 8:
            lines[at] = one + b"\r"
        case 9:
            lines[at] = one.replace(b'"n": 1', b'"n": ' + b"9" * 400)
        case 10:
            lines[at] = b'{"custom_id":"1a2b3c4d-no",' + one[1:]  # the last one counts
        case 11:
            lines[at] = one[:-1] + b', "more": [' + b"1," * 60 + b"1]}"  # too many parts
        case _:
            pass
    return b"\n".join(lines) + chance.choice([b"\n", b"", b"\n\n"])


@pytest.mark.parametrize("output", [None, SCHEMA])
def test_answers_are_whole_when_each_request_has_its_one_line(
    output: OutputSchema | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (judge, bounded):
        monkeypatch.setattr(module, "LARGE_LINE_BYTES", 300)
    monkeypatch.setattr(bounded, "MOST_PARTS", 50)
    path = tmp_path / "answers.jsonl"
    found = {True: 0, False: 0}
    with memory_connection("50MB", threads=1) as con:
        given = SimpleNamespace(connection=con, custom_ids=frozenset(ASKED))
        for seed in range(FILES):
            chance = random.Random(seed)
            judged = JudgedAnswers(
                cast(Requested, given), Question(output, "", tool_calls=seed % 2 == 0), NOW
            )
            lines = [line(one, '{"said": "said", "n": 1}') for one in ASKED]
            path.write_bytes(changed(lines, chance))
            expected = chance.choice([5, 5, 5, 5, 4, 6])
            counted = read_local(str(path), Lines(set(ASKED), expected))
            judged.fill(str(path))
            assert judged.are_whole(expected) == (counted.damage is None), (seed, counted.damage)
            found[counted.damage is None] += 1
            if counted.damage is None:
                rows = con.execute("select custom_id from judged order by all").fetchall()
                assert [custom_id for (custom_id,) in rows] == ASKED
    assert min(found.values()) > FILES / 10


def test_what_hinders_judging_leaves_the_count_to_those_who_count_with_care() -> None:
    def fails() -> None:
        raise OSError("the disk is full")

    batch = object.__new__(Batch)
    batch.requested = cast(Requested, SimpleNamespace(custom_ids=frozenset(ASKED)))
    batch.judged = cast(JudgedAnswers, SimpleNamespace(fill=lambda _path: fails()))
    assert not batch.are_whole("answers.jsonl", frozenset(ASKED), 5)
    assert not batch.are_whole("answers.jsonl", frozenset(ASKED[1:]), 4)
