"""What happens to a request, drawn the same way every time."""

import hashlib
from dataclasses import dataclass

from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.options import Options, Outcome

# Drawn from the prompt: asking the same again gives the same. The others are passing troubles.
_FROM_PROMPT = ("invalid", "refused")
_ORDER: tuple[Outcome, ...] = ("invalid", "errored", "expired", "refused", "truncated", "unfit")
_PASSING_ERRORS = (("api_error", "Internal server error"), ("overloaded_error", "Overloaded"))


@dataclass(frozen=True)
class Draw:
    """Draws numbers between 0 and 1 that depend on nothing but the seed and what they are for."""

    seed: int

    def __call__(self, purpose: str, key: str) -> float:
        text = f"{self.seed}\0{purpose}\0{key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64


def outcome_of(options: Options, custom_id: str, prompt: str) -> Outcome | None:
    """The outcome that the options want for a request; None = it succeeds as usual."""
    for text, outcome in options.outcomes.items():
        if text in prompt:
            return outcome
    draw = Draw(options.seed)
    for outcome in _ORDER:
        rate = options.rates.get(outcome, 0.0)
        key = prompt if outcome in _FROM_PROMPT else custom_id
        if rate and draw(outcome, key) < rate:
            return outcome
    return None


def error_of(outcome: Outcome, seed: int, custom_id: str) -> ApiError:
    """The error that a request with outcome `errored` or `invalid` ends with."""
    if outcome == "invalid":
        return invalid("messages: the emulator was told to find this request invalid")
    first = Draw(seed)("kind of error", custom_id) < 0.5
    return ApiError(*_PASSING_ERRORS[0 if first else 1])
