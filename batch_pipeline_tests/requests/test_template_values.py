"""Filters, joins and comparisons see the values that ``{{ }}`` prints."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline import MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.prompt import text_of
from batch_pipeline_tests.support.given_answers import OneRecord, text

RECORD: dict[str, Any] = {
    "nothing": None,
    "flag": True,
    "day": date(2024, 2, 1),
    "moment": datetime(2024, 2, 1, 3, 4, 5, tzinfo=UTC),
    "clock": time(3, 4),
    "amount": Decimal("0.10"),
    "thousand": Decimal("1E+3"),
    "id": UUID(int=5),
    "words": "O'Brien <é> & {{ co }}",
    "numbers": [1, None, 3],
    "mixed": [Decimal("1E+3"), None, date(2024, 1, 1), True],
    "basket": {
        "items": ["pear", None],
        "keys": "K",
        "values": None,
        "get": 1,
        "copy": {"items": 2, "pop": date(2024, 1, 1)},
        "total": Decimal("1.5"),
    },
}


def text_for(prompt: str, record: dict[str, Any] = RECORD) -> str:
    template = MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt=f"({prompt})")
    compiled = compile_question(template, dict.fromkeys(record, "VARCHAR"))
    params = compiled.params(record)
    return params["messages"][0]["content"][1:-1]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ nothing | tojson }}", "null"),
        ("{{ [nothing, 1] | tojson }}", "[null, 1]"),
        ("{{ mixed | tojson }}", '["1000", null, "2024-01-01", true]'),
        ("{{ moment | tojson }}", '"2024-02-01T03:04:05+00:00"'),
        ("{{ words | tojson }}", '"O\'Brien <é> & {{ co }}"'),
        ("{{ numbers | tojson(indent=1) }}", "[\n 1,\n null,\n 3\n]"),
        ("{{ mixed | join(', ') }}", "1000, , 2024-01-01, true"),
        ("{{ numbers | join(flag) }}", "1truetrue3"),
        ("{{ nothing | join(', ') }}", ""),
        ("{{ [basket, {'total': nothing}] | join('/', attribute='total') }}", "1.5/"),
        (
            "{{ flag ~ day ~ moment ~ thousand ~ nothing }}",
            "true2024-02-012024-02-01T03:04:05+00:001000",
        ),
        ("{{ 'a' ~ numbers ~ 'b' }}", "a[1,null,3]b"),
        ("{{ flag | upper }} {{ thousand | string }}", "TRUE 1000"),
        ("{{ moment | replace('T', ' ') }}", "2024-02-01 03:04:05+00:00"),
        ("{{ '%s on %s' | format(thousand, moment) }}", "1000 on 2024-02-01T03:04:05+00:00"),
        ("{{ '%.1f' | format(amount) }}", "0.1"),
    ],
)
def test_a_filter_sees_what_is_printed(prompt: str, text: str) -> None:
    assert text_for(prompt) == text


@pytest.mark.parametrize("name", sorted(RECORD))
def test_tojson_holds_the_values_that_a_struct_prints(name: str) -> None:
    printed = json.loads(text_of({name: RECORD[name]}))
    assert json.loads(text_for(f"{{{{ {{'{name}': {name}}} | tojson }}}}")) == printed


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ nothing | default('-') }}{{ nothing | d('+') }}", "-+"),
        ("{{ basket.values | default('-') }}{{ flag | default('-') }}", "-true"),
        ("{{ nothing > 5 }} {{ 5 < nothing }} {{ nothing <= nothing }}", "false false false"),
        ("{{ nothing == none }} {{ nothing != 0 }}", "true true"),
        ("{{ nothing + 1 }}{{ 2 * nothing }}{{ -nothing }}", ""),
        (
            "{{ nothing | int }}{{ nothing | round(1) }}{{ nothing | abs }}{{ nothing | float }}",
            "",
        ),
        ("{{ nothing | int(7) }}", "7"),
        ("{{ nothing | first }}{{ nothing | last }}{{ nothing | max }}{{ nothing | dictsort }}", ""),
        ("{{ nothing.strip().lower() }}{{ nothing.city.name }}", ""),
        ("{% for k, v in nothing | items %}{{ k }}{% endfor %}", ""),
        ("{{ numbers | sum }} {{ numbers | length }}", "4 3"),
        ("{{ 3 in nothing }}", "false"),
    ],
)  # fmt: skip
def test_null_is_nothing_in_every_filter_and_comparison(prompt: str, text: str) -> None:
    assert text_for(prompt) == text


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("amount == 0.1", True),
        ("0.1 == amount", True),
        ("amount < 0.1", False),
        ("amount >= 0.1", True),
        ("amount in [0.1]", True),
        ("amount == '0.10'", True),
        ("amount != 0.2", True),
        ("amount > nothing", False),
        ("day == '2024-02-01'", True),
        ("day > '2024-01-31'", True),
        ("'2024-01-31' < day", True),
        ("day < nothing", False),
        ("moment > '2024-02-01'", True),
        ("moment > day", True),
        ("day < moment", True),
        ("day == moment", False),
        ("clock == '03:04:00'", True),
        ("id == '00000000-0000-0000-0000-000000000005'", True),
        ("flag == true", True),
    ],
)
def test_a_comparison_sees_what_is_printed(condition: str, holds: bool) -> None:
    assert text_for(f"{{{{ {condition} }}}}") == str(holds).lower()


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ amount * 1.19 }}", "0.1190"),
        ("{{ 2.5 + amount }}", "2.60"),
        ("{{ [amount, thousand] | sum }}", "1000.10"),
        ("{{ amount / 0.5 }}", "0.2"),
        ("{{ (thousand * 10) ~ '' }}", "10000"),
        ("{{ day.strftime('%d.%m.%Y') }} {{ (day - day).days }}", "01.02.2024 0"),
    ],
)
def test_a_decimal_computes_with_numbers_as_they_are_written(prompt: str, text: str) -> None:
    assert text_for(prompt) == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ basket.items }}", '["pear",null]'),
        ("{{ basket.items | join('+') }}", "pear+"),
        ("{% for item in basket.items %}<{{ item }}>{% endfor %}", "<pear><>"),
        ("{{ basket.keys }}{{ basket.values }}{{ basket.get }}", "K1"),
        ("{{ basket.copy.items }} {{ basket.copy.pop }}", "2 2024-01-01"),
        ("{{ basket.items() | length }} {{ basket.get('keys') }}", "6 K"),
        ("{% for k, v in basket.copy.items() %}{{ k }}={{ v }};{% endfor %}", "items=2;pop=2024-01-01;"),
        ("{{ [basket] | map(attribute='items') | list }}", '[["pear",null]]'),
    ],
)  # fmt: skip
def test_a_field_is_found_behind_a_methods_name_and_a_call_is_the_method(
    prompt: str, text: str
) -> None:
    assert text_for(prompt) == text


def test_a_column_with_a_methods_name_is_read_of_the_record() -> None:
    columns = {"items": "VARCHAR", "other": "VARCHAR"}
    template = MessageTemplate(model="m", max_tokens=9, prompt="{{ record.items }}")
    compiled = compile_question(template, columns)
    assert compiled.columns == ("items",)
    assert compiled.params({"items": "I"})["messages"][0]["content"] == "I"
    called = MessageTemplate(model="m", max_tokens=9, prompt="{{ record.items() | list }}")
    assert compile_question(called, columns).columns == ("items", "other")


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
printed = plain | st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.dates()
nested = st.recursive(
    printed,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(nested)
def test_whatever_the_value_tojson_and_concatenation_agree_with_printing(value: Any) -> None:
    assert text_for("{{ '' ~ v }}", {"v": value}) == text_for("{{ v }}", {"v": value})
    as_json = json.loads(text_for("{{ [v] | tojson }}", {"v": value}))
    assert as_json == json.loads(text_for("{{ [v] }}", {"v": value}))


def test_a_record_with_null_in_its_json_is_asked(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    source = "select 1 as id, null as v, 1.10::decimal(9,2) as price, date '2024-02-01' as day"
    one = OneRecord(tmp_path, claude_emulator, source)
    row = one.answer(one.nights(prompt="Row: {{ record | tojson }}"), text("ok"))
    assert row["_status"] == "answered"
    (batch,) = claude_emulator.batches()
    (request,) = claude_emulator.requests(batch["id"])
    asked = request["params"]["messages"][0]["content"]
    assert json.loads(asked.removeprefix("Row: ")) == {
        "id": 1,
        "v": None,
        "price": "1.10",
        "day": "2024-02-01",
    }
