"""The options of the emulator: the one place where they are named, explained and given defaults."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Answers = Literal["fitting", "digest"]
Outcome = Literal["errored", "expired", "invalid", "refused", "truncated", "unfit"]
RATES = (*get_args(Outcome), "cache_miss")


@dataclass(frozen=True)
class Options:
    """How the emulator behaves. Every option can be changed while it runs.

    Attributes:
        batch_seconds: Time from creation to the end of a batch, by the emulator's clock. With 0 a
            batch has ended at the first look at it.
        manual: Batches end only when told to (`POST /_emulator/end`), or when they expire.
        answers: `fitting` fills the asked-for schema from the prompt's text; `digest` answers with
            the SHA-256 (hex) of the prompt's text, which proves whose answer an answer is.
        rates: Share of requests, 0 to 1, that get another outcome. `errored` (a passing server
            error) and `expired` are drawn for each custom_id, `truncated` (max_tokens) and
            `cache_miss` too, and `unfit` (an answer that does not fit the schema); `invalid` (invalid_request_error) and `refused` are drawn from the
            prompt's text, so that asking again changes nothing.
        outcomes: Text that occurs in a prompt -> outcome of that request, one of `errored`,
            `expired`, `invalid`, `refused`, `truncated`, `unfit`.
        seed: Changes every draw and the order of the results.
        queue_limit: Requests not yet processed, over all batches of a workspace, above which
            creating a batch is a 429.
        retry_after_seconds: The `retry-after` of the emulator's own 429 answers.
        requests_per_minute: Calls per minute of one workspace above which a call is a 429; 0 = no
            limit.
        max_batch_requests: Requests in one batch above which creating it is a 400.
        max_batch_bytes: Bytes in one body above which creating a batch is a 413.
        keys: API key -> workspace. Empty: any key is good and its workspace is `default`. The
            workspace `*` lets the key choose by the header `anthropic-workspace-id`.
        organization: What `anthropic-organization-id` says.
        any_model: Take any name of a model, as behind a relay that maps names; else one that there
            is not is a 404.
        public_url: The URL by which clients reach the emulator, where it is another than that of
            the call: that of a relay, with its path. It stands in `results_url`.
        cache_after_batch: A prompt is in the cache once the batch that wrote it has ended: no request finds
            what another one of its own batch wrote, as when all are answered at once.
        mistakes: Model -> share of prompts, 0 to 1, to which it gives another of the values that the schema
            lists, drawn from the prompt's text; so two models agree to a set share. A field such as `confidence` is
            then 0.3 to 0.69 in nine of ten mistakes, and of the others 0.6 to 0.99, as without this option.
        downloadable_files: Give out uploaded files; the API gives out only what tools made.
    """

    batch_seconds: float = 0.0
    manual: bool = False
    answers: Answers = "fitting"
    rates: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seed: int = 0
    queue_limit: int = 200_000
    retry_after_seconds: int = 1
    requests_per_minute: int = 0
    max_batch_requests: int = 100_000
    max_batch_bytes: int = 256_000_000
    keys: dict[str, str] = field(default_factory=dict)
    organization: str = "4a1f0000-0000-4000-8000-000000000000"
    any_model: bool = False
    public_url: str = ""
    cache_after_batch: bool = False
    mistakes: dict[str, float] = field(default_factory=dict)
    downloadable_files: bool = False

    def __post_init__(self) -> None:
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ValueError(f"public_url must be an http(s) URL, not {self.public_url!r}")
        object.__setattr__(self, "public_url", self.public_url.rstrip("/"))
        if self.answers not in get_args(Answers):
            raise ValueError(f"answers must be one of {get_args(Answers)}, not {self.answers!r}")
        for name, rate in self.rates.items():
            if name not in RATES:
                raise ValueError(f"unknown rate {name!r}; there are {', '.join(RATES)}")
            if not 0 <= rate <= 1:
                raise ValueError(f"rate {name!r} must be between 0 and 1, not {rate!r}")
        for model, share in self.mistakes.items():
            if not 0 <= share <= 1:
                raise ValueError(f"mistakes of {model!r} must be between 0 and 1, not {share!r}")
        for text, outcome in self.outcomes.items():
            if outcome not in get_args(Outcome):
                raise ValueError(f"unknown outcome {outcome!r} for {text!r}: {get_args(Outcome)}")

    def changed(self, **changes: Any) -> "Options":
        """These options with some changed.

        Raises:
            ValueError: An option is unknown or its value is not usable.
        """
        known = {option.name for option in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"unknown option {', '.join(unknown)}; there are {sorted(known)}")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Every option by name, ready for JSON."""
        return dataclasses.asdict(self)
