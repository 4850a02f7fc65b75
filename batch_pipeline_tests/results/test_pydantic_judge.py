"""A pydantic class judges each answer itself, and what it makes of an answer is what the columns hold."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PastDate,
    RootModel,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.judge import judge_line
from batch_pipeline.results.question import Question
from batch_pipeline_tests.requests.test_schema import INVOICE, Invoice, schema_of
from batch_pipeline_tests.results.test_judge import NOW, succeeded
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.given_answers import OneRecord, text


@pytest.fixture
def one(claude_emulator: EmulatorProcess, tmp_path: Path) -> OneRecord:
    return OneRecord(tmp_path, claude_emulator)


def judged(model: type[BaseModel], answer: Any) -> tuple[str, str | None, Any]:
    """Return status, error and answer of one answer."""
    found = judge_line(succeeded(text(answer)), schema_of(model), NOW)
    assert found is not None
    return found.status, found.error, json.loads(found.answer) if found.answer else None


def columns(model: type[BaseModel], answer: Any) -> dict[str, Any]:
    """Return the columns that an answer becomes."""
    status, error, fitted = judged(model, answer)
    assert (status, error) == ("answered", None)
    row = duckdb.sql(
        "select unnest(json_transform($answer, $structure))",
        params={"answer": json.dumps(fitted), "structure": schema_of(model).structure},
    )
    return dict(zip(row.columns, row.fetchall()[0], strict=True))


class Bill(BaseModel):
    total: Decimal = Field(max_digits=6, decimal_places=2)
    iban: str

    @field_validator("iban")
    @classmethod
    def has_a_country(cls, value: str) -> str:
        if not value[:2].isalpha():
            raise ValueError("an IBAN starts with a country")
        return value.replace(" ", "")


def test_what_the_class_refuses_is_invalid_with_its_words(one: OneRecord) -> None:
    row = one.answer(one.nights(output=Bill), text({"total": 12.5, "iban": "00 12"}))
    assert (row["_status"], row["total"], row["iban"]) == ("invalid", None, None)
    assert row["_error"].startswith("iban: an IBAN starts with a country. The answer reads: ")
    assert "pydantic" not in row["_error"]


def test_what_the_class_makes_of_an_answer_is_in_the_columns(one: OneRecord) -> None:
    row = one.answer(one.nights(output=Bill), text({"total": 12.5, "iban": "DE 12"}))
    assert (row["_status"], row["total"], row["iban"]) == ("answered", Decimal("12.50"), "DE12")


def test_digits_count() -> None:
    status, error, _ = judged(Bill, {"total": 123456789.123, "iban": "DE"})
    assert status == "invalid" and str(error).startswith("total: ") and "6 digits" in str(error)


class Kind(Enum):
    FOOD = "Food"
    TRAVEL = "Travel"


def _stripped(value: Any) -> Any:
    return value.removesuffix(" EUR") if isinstance(value, str) else value


class Rich(BaseModel):
    kind: Kind = Kind.FOOD
    note: str = "none"
    tags: list[str] = Field(default_factory=lambda: ["x"])
    amount: Annotated[float, BeforeValidator(_stripped)] = 0
    shout: Annotated[str, AfterValidator(str.upper)] = "a"
    at: datetime = datetime(2026, 1, 1)
    day: date | None = None
    took: timedelta = timedelta(hours=1)
    clock: time | None = None
    far: float = float("inf")
    kinds: set[str] = set()
    count: int = 1


@pytest.mark.parametrize(
    ("answer", "name", "value"),
    [
        ({}, "kind", "Food"),
        ({}, "note", "none"),
        ({}, "tags", ["x"]),
        ({}, "at", datetime(2026, 1, 1, tzinfo=UTC)),
        ({}, "took", "PT1H"),
        ({"kind": "TRAVEL"}, "kind", "Travel"),
        ({"shout": "abc"}, "shout", "ABC"),
        ({"amount": "12.5 EUR"}, "amount", 12.5),
        ({"count": "7"}, "count", 7),
        ({"count": 7.0}, "count", 7),
        ({"at": "2026-11-26T10:00:00"}, "at", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        ({"at": "2026-11-26t10:00:00z"}, "at", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        ({"at": "2026-11-26 10:00:00+02:00"}, "at", datetime(2026, 11, 26, 8, tzinfo=UTC)),
        ({"day": "2026-11-26T00:00:00"}, "day", date(2026, 11, 26)),
        ({"day": None}, "day", None),
        ({"clock": "10:00"}, "clock", "10:00:00"),
        ({"clock": "10:00:00Z"}, "clock", "10:00:00+00:00"),
        ({}, "far", float("inf")),
        ({"kinds": ["b", "a", "b"]}, "kinds", ["a", "b"]),
    ],
)
def test_defaults_and_coercions_land_in_the_columns(
    answer: dict[str, Any], name: str, value: Any
) -> None:
    assert columns(Rich, answer)[name] == value


class Period(BaseModel):
    begins: date
    ends: date

    @model_validator(mode="after")
    def in_order(self) -> "Period":
        assert self.begins <= self.ends, "a period ends after it begins"
        return self


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    total: Decimal
    flag: bool


class Born(BaseModel):
    born: PastDate


class Loose(BaseModel):
    count: int

    @field_validator("count", mode="before")
    @classmethod
    def at_least_one(cls, value: Any) -> Any:
        return {}["no such key"]


@pytest.mark.parametrize(
    ("model", "answer", "says"),
    [
        (Period, {"begins": "2026-02-01", "ends": "2026-01-01"}, "a period ends after it begins"),
        (Strict, {"day": "2026-01-01", "total": 1, "flag": "yes"}, "flag: "),
        (Born, {"born": "2999-01-01"}, "born: Date should be in the past"),
        (Loose, {"count": 1}, "Loose failed on the answer: KeyError"),
        (Rich, {"kind": "Stone"}, "kind: Input should be 'Food' or 'Travel'"),
        (Rich, {"count": "x", "amount": "y"}, r"\(and 1 more\)"),
        (Rich, {"count": 2**63}, "count: .*(64 bits|maximum)"),
        (Rich, {"day": "yesterday"}, "day: "),
        (Rich, [], "valid dictionary|object"),
        (Invoice, INVOICE | {"lines": []}, "lines: "),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(
    model: type[BaseModel], answer: Any, says: str
) -> None:
    status, error, _ = judged(model, answer)
    assert status == "invalid"
    assert re.search(says, str(error)), error
    assert (
        "errors.pydantic.dev" not in str(error) and "\n" not in str(error).split(" The answer")[0]
    )


def test_a_strict_class_takes_json_as_json() -> None:
    found = columns(Strict, {"day": "2026-01-01", "total": 1.5, "flag": True})
    assert found == {"day": date(2026, 1, 1), "total": Decimal("1.5"), "flag": True}


class Inner(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=str.upper))
    name: str
    secret: SecretStr = SecretStr("s")


class Names(RootModel[list[str]]):
    pass


class Aliased(BaseModel):
    inner: Inner = Field(alias="theInner", serialization_alias="another")
    choice: int = Field(validation_alias=AliasChoices("a_choice", "b_choice"))
    names: Names
    day: date
    either: Inner | None = None

    @field_serializer("day")
    def german(self, day: date) -> str:
        return day.strftime("%d.%m.%Y")


def test_columns_have_the_names_of_the_schema_and_the_values_of_the_fields() -> None:
    answer = {"theInner": {"NAME": "x"}, "a_choice": 3, "names": ["n"], "day": "2026-01-31"}
    found = columns(Aliased, answer)
    assert found == {
        "theInner": {"NAME": "x", "SECRET": "s"},
        "a_choice": 3,
        "names": ["n"],
        "day": date(2026, 1, 31),
        "either": None,
    }
    assert [name for name, _ in schema_of(Aliased).columns] == list(found)


class OtherForm(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    choice: int = Field(validation_alias=AliasChoices("a_choice", "b_choice"))
    first: str = Field(alias="First Name")
    deep: int = Field(validation_alias=AliasPath("outer", "inner"))
    stars: int = Field(1, json_schema_extra={"maximum": 5})
    none: int = None  # type: ignore[assignment]

    @model_validator(mode="before")
    @classmethod
    def unwrapped(cls, value: Any) -> Any:
        return value.get("result", value)


def in_other_form(**change: Any) -> dict[str, Any]:
    inner = {"b_choice": 3, "first": "x", "outer": {"inner": 1}}
    return {"result": inner | change}


def test_what_the_class_finds_by_another_name_or_in_another_place_is_answered(
    one: OneRecord,
) -> None:
    expected = {"a_choice": 3, "First Name": "x", "deep": 1, "stars": 1, "none": None}
    assert columns(OtherForm, in_other_form()) == expected
    assert columns(OtherForm, in_other_form()["result"]) == expected
    row = one.answer(one.nights(output=OtherForm), text(in_other_form(stars=2)))
    assert (row["_status"], row["a_choice"], row["stars"]) == ("answered", 3, 2)


def test_a_bound_of_the_schema_counts_for_what_the_class_finds_elsewhere() -> None:
    status, error, _ = judged(OtherForm, in_other_form(stars=6))
    assert status == "invalid" and str(error).startswith("stars: 6 is greater than")


class Larger(BaseModel):
    count: int
    label: str

    @field_validator("count")
    @classmethod
    def too_large(cls, value: int) -> int:
        return value * 2**40


def test_what_a_column_cannot_hold_is_invalid_and_not_silently_null() -> None:
    status, error, _ = judged(Larger, {"count": 2**30, "label": "x"})
    assert status == "invalid" and "count: " in str(error) and "64 bits" in str(error)


class OnlyInTheSchema(BaseModel):
    stars: int = Field(json_schema_extra={"maximum": 5})


def test_a_bound_that_stands_in_the_schema_alone_counts_too() -> None:
    assert judged(OnlyInTheSchema, {"stars": 5})[0] == "answered"
    assert judged(OnlyInTheSchema, {"stars": 6})[0] == "invalid"


def test_each_answer_of_a_large_file_is_judged_by_itself() -> None:
    good, bad = {"total": 1, "iban": "DE"}, {"total": 1, "iban": "00"}
    statuses = [judged(Bill, good if n % 3 else bad)[0] for n in range(30)]
    assert statuses == ["answered" if n % 3 else "invalid" for n in range(30)]


def same_schema(changed: bool) -> type[BaseModel]:
    """The class as a later version of the code has it."""

    class Bill(BaseModel):
        total: Decimal = Field(max_digits=6, decimal_places=2)
        iban: str if not changed else Literal["DE"]  # type: ignore[valid-type]

        @field_validator("iban")
        @classmethod
        def never(cls, value: str) -> str:
            raise ValueError("refused by today's class")

    return Bill


@pytest.fixture
def open_batch(one: OneRecord) -> Iterator[OneRecord]:
    """A batch that was asked with `Bill`, and has ended with an answer that `Bill` takes."""
    one.send(one.nights(output=Bill))
    one.end_with(text({"total": 1.5, "iban": "DE 12"}))
    yield one


def test_the_class_of_today_judges_what_was_asked_with_its_schema(open_batch: OneRecord) -> None:
    open_batch.nights(output=same_schema(changed=False)).collect()
    assert "refused by today's class" in open_batch.row()["_error"]


@pytest.mark.parametrize("today", [same_schema(changed=True), None])
def test_what_was_asked_with_another_schema_is_judged_by_that_schema(
    open_batch: OneRecord, today: type[BaseModel] | None
) -> None:
    open_batch.nights(output=today).collect()
    row = open_batch.row()
    assert (row["_status"], row["total"], row["iban"]) == ("answered", Decimal("1.5"), "DE 12")


def test_a_question_of_the_ledger_takes_todays_class_only_for_the_same_schema() -> None:
    asked = Question(OutputSchema.from_(Bill), "").to_store()
    stored = json.loads(json.dumps(asked))
    for today, model in (
        (Question(OutputSchema.from_(Bill), ""), Bill),
        (Question(OutputSchema.from_(same_schema(changed=True)), ""), None),
        (Question(None, ""), None),
        (None, None),
    ):
        found = Question.stored(stored, today)
        assert found.output is not None and found.output.model is model
        assert found.columns == [("total", "DECIMAL(6,2)"), ("iban", "VARCHAR")]


@only_whole
def test_rows_made_again_from_kept_answers_are_judged_by_the_class_again(one: OneRecord) -> None:
    nights = one.nights(output=Bill)
    one.answer(nights, text({"total": 12.5, "iban": "DE 12"}))
    (results,) = (one.folder / "store").glob("p/*/results/*.parquet")
    results.unlink()
    nights.collect()
    (again,) = (one.folder / "store").glob("p/*/results/*.parquet")
    found = duckdb.sql(f"select total, iban from '{again}'").fetchall()
    assert found == [(Decimal("12.50"), "DE12")]
