"""The columns of `cache_by`: blocks before the prompt, cached where that pays."""

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import InputError, MessageTemplate
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.cache_groups import fewest_members, read_groups
from batch_pipeline.requests.compiled import CompiledTemplate, compile_question
from batch_pipeline.requests.expression import LineWriter
from batch_pipeline.requests.lengths import NO_ANSWERS, Lengths
from batch_pipeline.requests.line_weight import weigh_file
from batch_pipeline.requests.prices import Tokens, price_of
from batch_pipeline.results.shared_columns import shared_column

MARK = {"type": "ephemeral", "ttl": "1h"}
COLUMNS = {"document": "VARCHAR", "day": "DATE", "question": "VARCHAR"}


def question(**fields: Any) -> CompiledTemplate:
    declared: dict[str, Any] = {
        "model": "claude-haiku-5-5", "max_tokens": 8, "prompt": "{{ question }}", "cache": "1h",
        "cache_by": ["document"],
    }  # fmt: skip
    return compile_question(MessageTemplate(**declared | fields), COLUMNS)


def content(params: dict[str, Any]) -> Any:
    return params["messages"][0]["content"]


def test_the_columns_are_blocks_before_the_prompt() -> None:
    template = question(cache_by=["day", "document"], system="Be brief.")
    record = {"document": "A long {{ text }}.", "day": None, "question": "Why?"}
    day = duckdb.execute("select date '2026-11-27'").fetchall()[0][0]
    assert template.columns == ("day", "document", "question")
    assert content(template.params(record | {"day": day}, marked=True)) == [
        {"type": "text", "text": "2026-11-27"},
        {"type": "text", "text": "A long {{ text }}.", "cache_control": MARK},
        {"type": "text", "text": "Why?"},
    ]
    assert template.params(record)["system"][0]["cache_control"] == MARK
    # What has no text makes no block; the mark is that of the last there is.
    assert content(template.params(record | {"document": " \n", "day": day}, marked=True)) == [
        {"type": "text", "text": "2026-11-27", "cache_control": MARK},
        {"type": "text", "text": "Why?"},
    ]
    assert content(template.params(record | {"document": None}, marked=True)) == "Why?"
    assert content(template.params(record)) == [
        {"type": "text", "text": "A long {{ text }}."},
        {"type": "text", "text": "Why?"},
    ]


def test_it_is_part_of_the_question() -> None:
    plain = question(cache_by=(), system="S").version
    versions = {question(cache_by=by).version for by in (["document"], ["document", "day"], ["day", "document"])}  # fmt: skip
    assert len(versions | {plain}) == 4
    assert question(cache_by=("document",)).version == question(cache="5m").version
    assert question(cache_by=(), system="S").request_hash != question(system="S").request_hash


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cache_by": "document"}, r"cache_by must be a list of columns, e\.g\. cache_by=\['document'\]"),
        ({"cache_by": 3}, "cache_by must be a list of columns"),
        ({"cache_by": [""]}, "cache_by names columns; '' is none"),
        ({"cache_by": ["document", "document"]}, "names the column 'document' twice"),
        ({"cache": None}, 'cache_by fills a cache, and there is none: set cache="5m"'),
        ({"cache_seed": True}, "leave cache_seed out"),
        ({"prompt": "{{ question }} {{ document }}"}, "prints 'document', which cache_by sends already"),
        ({"prompt": "Why?"}, "prompt reads no column, so records that share a text"),
        ({"prompt": None, "messages": [{"role": "user", "content": "{{ question }}"}]}, "write the block yourself"),
        ({"prompt": None, "build": dict, "columns": ["question"], "version": "1"}, "cache_by puts its columns before a `prompt`"),
        ({"cache_by": ["documnet"]}, "cache_by reads column 'documnet', which the source does not have; did you mean 'document'"),
        ({"system": "S", "params": {"tools": [{"name": str(n), "cache_control": MARK} for n in range(3)]}}, "with cache_by it has 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        question(**fields)


def test_from_how_many_requests_on_it_pays() -> None:
    assert fewest_members("1h", 1.0, None) == 3  # 2 + 0.1 + 0.1 < 3
    assert fewest_members("5m", 1.0, None) == 2
    assert fewest_members("1h", 0.64, None) == 6
    assert fewest_members("1h", 0.5, None) is None


RECORDS = """
    select row_number() over () - 1 as _row, 'ask' as _kind, 'abcdef01-' || _row || '-1' as _custom_id, *
    from (
        select case g when 0 then NULL when 1 then '' when 2 then 'short "é"'
               when 3 then repeat('alone', 900) else repeat('text\n' || g, 500) || chr(2 + g::integer) || 'é' end as document,
               date '2026-11-27' as day, 'question ' || i || if(i % 50 = 9, chr(1) || chr(31), '') as question
        from range(9) s(g), range(40) t(i) where g <> 3 or i = 0 order by g, i
    )
"""


def built(folder: Path, template: CompiledTemplate, lengths: Lengths = NO_ANSWERS) -> Built:
    path = str(folder / "records.parquet")
    duckdb.execute(f"copy ({RECORDS}) to '{path}' (format parquet, row_group_size 2048)")
    groups = read_groups(path, template, lengths, None)
    return build_requests(
        path, template, Limits(170, 10_000_000), str(folder / "out"), None, groups
    )


def lines(made: Built) -> list[bytes]:
    return [line for file in made.files for line in Path(file.path).read_bytes().splitlines()]


def test_only_what_pays_is_marked_whoever_makes_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = question(system="Be brief.")
    wrote: list[int] = []
    write = LineWriter.write

    def seen(self: LineWriter, piece: Any) -> Any:
        found = write(self, piece)
        assert found is not None
        wrote.append(len(piece) - len(found.left))
        return found

    monkeypatch.setattr(LineWriter, "write", seen)
    made = built(tmp_path, template)
    by_sql = lines(made)
    assert sum(wrote) >= 150
    monkeypatch.setattr(LineWriter, "write", lambda *_: None)
    assert by_sql == lines(built(tmp_path, template))
    marked = [
        [block.get("cache_control") for block in blocks]
        for line in by_sql
        if isinstance(blocks := content(json.loads(line)["params"]), list)
    ]
    # Five long texts of 40 requests each; a short one, and one that a single request has.
    assert sorted(map(str, marked)) == sorted(
        map(str, 5 * 40 * [[MARK, None]] + 41 * [[None, None]])
    )
    assert made.groups is not None and made.groups.requests == 6 * 40 + 40 + 40 + 1
    # What its files have, together: a group that goes on in the next one is written there again.
    parts = [made.groups.within(one.first_row, one.last_row, one.requests) for one in made.files]
    assert len(parts) == 2 and sum(sum(part.members) for part in parts) == 200
    assert sum(len(part.members) for part in parts) == 6
    # By the file alone, what is at most written to the cache is not less than by the groups.
    found = weigh_file(made.files[-1].path, made.files[-1].bytes, NO_ANSWERS)
    assert found.cache == "1h" and found.cached_max > 1_000
    # Where hardly anything is found in the cache, nothing is written to it.
    rare = built(tmp_path, template, Lengths(hits_seen=0.3))
    assert rare.groups is not None and "30% find what an earlier one wrote" in rare.groups.why_not
    assert not any(b'"cache_control"' in line.split(b'"messages"')[1] for line in lines(rare))


def test_a_long_column_that_records_share_is_found(tmp_path: Path) -> None:
    path, price = (
        str(tmp_path / "records.parquet"),
        price_of("claude-haiku-5-5", date(2026, 11, 27)),
    )
    duckdb.execute(f"copy ({RECORDS}) to '{path}' (format parquet)")
    asked = MessageTemplate(
        model="claude-haiku-5-5", max_tokens=8, prompt="{{ document }} {{ question }} {{ day }}"
    )
    assert price is not None
    with duckdb.connect() as connection:
        found = shared_column(connection, path, asked, price, 2.5, 512)
        assert found is not None and (found.column, found.texts, found.requests) == ("document", 5, 200)  # fmt: skip
        assert found.cache == "1h" and found.usd > 0
        # 5 texts of 3,500 bytes; by what an hour costs, and the share that is assumed.
        each = price.cost(Tokens(input=found.tokens))
        assert each is not None and Decimal("0.17") < found.usd / each / 200 < Decimal("0.19")
        assert shared_column(connection, path, asked, price, 2.5, 4096) is None
        own = replace(asked, prompt="{{ question }}", cache="1h", cache_by=["document"])
        assert shared_column(connection, path, own, price, 2.5, 512) is None
