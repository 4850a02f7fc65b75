"""One free dry run finds what the API refuses in every request, and nothing else stops a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline import InputError, MessageTemplate
from batch_pipeline.batches.outcome import ApiUnavailable, RequestRefused
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.dry_run import CountedOnce, dry_run
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.house import House

MODEL = "claude-haiku-4-5"


@pytest.fixture
def house(claude_emulator: EmulatorProcess, tmp_path: Path) -> House:
    return House(tmp_path, claude_emulator, HandClock())


def calls(house: House, route: str) -> int:
    return sum(n for name, n in house.emulator.stats()["calls"].items() if route in name)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            {"model": "claude-haiku-45"},
            "knows no model claude-haiku-45 .*Did you mean claude-haiku-4-5[?]",
        ),
        (
            {"params": {"thinking": {"type": "adaptive"}}},
            "refuses every request.*adaptive thinking is not",
        ),
    ],
)
def test_what_the_api_refuses_in_every_request_is_found_before_anything_is_sent(
    house: House, request_: dict[str, Any], says: str
) -> None:
    run = house.nights(request_)
    with pytest.raises(Exception, match=says) as failed:
        run.execute("notes_submit")
    assert "Nothing was sent." in str(getattr(failed.value, "description", failed.value))
    assert house.emulator.batches() == []


def test_a_question_that_was_put_right_goes_on(house: House) -> None:
    assert "gives at most" in house.refusal(house.nights({"max_tokens": 65_000}))
    house.nights({"max_tokens": 64_000}).submit()
    assert [batch["request_counts"]["succeeded"] for batch in house.emulator.batches()] == [40]


def test_each_question_is_tried_once_and_what_was_counted_is_not_counted_again(
    house: House,
) -> None:
    house.nights().submit()
    assert (calls(house, "/v1/models"), calls(house, "count_tokens")) == (1, 40)
    house.sql("insert into notes values (41, 'new', 0)")
    house.nights().submit()
    assert (calls(house, "/v1/models"), calls(house, "count_tokens")) == (1, 40)
    house.nights(claude={"dry_run": False}, request={"model": "claude-haiku-45"}).submit()
    assert len(house.emulator.batches()) == 3


def test_a_relay_that_maps_names_or_counts_nothing_stops_no_run(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    house.emulator.configure(any_model=True)
    house.nights({"model": "our-own-name"}).submit()
    house.emulator.fault(
        "count_tokens", "status_before", status=404, type="x", message="", times=None
    )
    house.nights({"model": "another-name"}).submit()
    assert len(house.emulator.batches()) == 2
    assert "Whether the API takes this question could not be found out" in capfd.readouterr().err


class Relay:
    """An endpoint that refuses what a test says."""

    base_url = "https://relay"

    def __init__(
        self,
        refuses: Callable[[Mapping[str, Any]], str | None],
        kind: str = "invalid_request_error",
    ):
        self.refuses, self.kind, self.counted = refuses, kind, 0
        self.longest: int | Exception | None = 64_000
        self.names: list[str] | None = None

    def count_tokens(self, params: Mapping[str, Any]) -> int:
        self.counted += 1
        if said := self.refuses(params):
            raise RequestRefused(f"https://relay answers 400: {said}", self.kind, said)
        return 7

    def longest_answer(self, model: str) -> int | None:
        if isinstance(self.longest, Exception):
            raise self.longest
        return self.longest

    def model_names(self) -> list[str]:
        if self.names is None:
            raise ApiUnavailable("no list")
        return self.names


def tried(relay: Relay, *texts: str, **fields: Any) -> str | None:
    asked = {"model": MODEL, "max_tokens": 9, "prompt": "{{ v }}", **fields}
    question = compile_question(MessageTemplate(**asked), {"v": "VARCHAR"})
    lines = [
        orjson.dumps({"custom_id": "a", "params": question.params({"v": text})}) for text in texts
    ]
    return dry_run(question, lines, relay, CountedOnce(relay.count_tokens))


def says(params: Mapping[str, Any]) -> str:
    return str(params["messages"][0]["content"])


def test_what_may_be_one_records_fault_stops_nothing() -> None:
    def bad(params: Mapping[str, Any]) -> str | None:
        return f"messages: {says(params)} is bad" if "bad" in says(params) else None

    assert "bad one" in str(tried(Relay(bad), "bad one"))
    assert "bad one" in str(tried(Relay(bad), "bad one", "good", "bad one"))
    assert "bad 1" in str(tried(Relay(bad), "bad 1", "bad 2", "bad 3"))
    with pytest.raises(
        InputError, match="refuses every request of this question: messages: bad is bad"
    ):
        tried(Relay(bad), "bad", "bad", "bad")


def test_what_may_be_the_relays_own_fault_stops_nothing() -> None:
    silent = Relay(lambda _: "tokens are not counted here")
    assert "not counted here" in str(tried(silent, "a", "b"))
    assert "not counted here" in str(tried(silent, "a", "b", "c"))
    named = Relay(lambda params: f"Invalid model name: {params['model']}")
    assert "Invalid model name" in str(tried(named, "a", "b", "c"))
    lost = Relay(lambda _: "no such route", "not_found_error")
    assert "no such route" in str(tried(lost, "a"))
    odd = Relay(lambda _: f"model: {MODEL}", "not_found_error")
    assert MODEL in str(tried(odd, "a"))  # it counts none of a model that it lists
    # It may not list them, or lists none: the name may be one that batches alone know.
    odd.longest = ApiUnavailable("no models here")
    assert MODEL in str(tried(odd, "a"))
    odd.longest = None
    assert MODEL in str(tried(odd, "a"))
    odd.names = []
    assert MODEL in str(tried(odd, "a"))
    odd.names = ["claude-of-tomorrow"]
    with pytest.raises(InputError, match=f"knows no model {MODEL}.* It knows claude-of-tomorrow"):
        tried(odd, "a")


def test_an_answer_may_be_as_long_as_the_model_or_the_beta_lets_it_be() -> None:
    relay = Relay(lambda _: None)
    assert tried(relay, "a", max_tokens=64_000) is None
    assert tried(relay, "a", max_tokens=300_000, betas=["output-300k-2026-03-24"]) is None
    with pytest.raises(InputError, match="at most 300,000"):
        tried(relay, "a", max_tokens=300_001, betas=["output-300k-2026-03-24"])
    with pytest.raises(
        InputError, match=r"max_tokens_limit of .* 65,000, and claude-haiku-4-5 gives"
    ):
        tried(relay, "a", max_tokens_limit=65_000)
    relay.longest = None
    assert tried(relay, "a", max_tokens=10**6) is None
    relay.longest = ApiUnavailable("no models here")
    assert tried(relay, "a", max_tokens=10**6) == "no models here"
