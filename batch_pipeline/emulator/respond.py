"""From the parameters of a request to its message, or to the error that it ends with.

Whatever a client sends, this is the whole of what can come of it: a malformed request is an
`invalid_request_error`, and never stops the batch it stands in.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batch_pipeline.emulator.answers import Answered, answer
from batch_pipeline.emulator.catalog import find_model
from batch_pipeline.emulator.database import EmulatorClosed
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.outcomes import Draw, error_of, outcome_of
from batch_pipeline.emulator.prompt import read_prompt
from batch_pipeline.emulator.rules import Occasion, check_params
from batch_pipeline.emulator.usage import PromptCaches

_logger = logging.getLogger(__name__)


@contextmanager
def _nothing_unforeseen() -> Iterator[None]:
    """What no check foresaw must not become the trouble of a whole batch, or of the server."""
    try:
        yield
    except (ApiError, EmulatorClosed):
        raise
    except Exception:
        _logger.exception("The emulator has no check for what is wrong with this request")
        raise invalid("The request is malformed in a way that the emulator cannot name") from None


@_nothing_unforeseen()
def respond(
    params: dict[str, Any],
    *,
    occasion: Occasion,
    options: Options,
    custom_id: str | None,
    message_id: str,
    caches: PromptCaches,
    scope: str,
    now: float,
) -> Answered | None:
    """The message that answers a request; None when it expires.

    Args:
        params: Parameters of the request, as they were sent.
        occasion: Where and how it was sent.
        options: How the emulator behaves.
        custom_id: The request's name in its batch; None: it is a direct message.
        message_id: Id of the message.
        caches: All prompt caches.
        scope: Workspace of the request.
        now: Moment of the answer.

    Raises:
        ApiError: The request ends with this error.
    """
    batch = occasion.batch
    check_params(params, occasion)
    prompt = read_prompt(params)
    most = find_model(params["model"]).max_input
    if prompt.tokens > most:
        # boldsoftware/exe.dev#62 has the words.
        raise invalid(f"prompt is too long: {prompt.tokens} tokens > {most} maximum")
    key = prompt.user if custom_id is None else custom_id
    outcome = outcome_of(options, key, prompt.user)
    if outcome in ("errored", "invalid"):
        raise error_of(outcome, options.seed, key)
    if outcome == "expired" and batch:
        return None
    miss_rate = options.rates.get("cache_miss", 0.0) if batch else 0.0
    share = options.mistakes.get(params["model"], 0.0)
    return answer(
        params,
        prompt,
        message_id=message_id,
        style=options.answers,
        seed=options.seed,
        outcome=None if outcome == "expired" else outcome,
        mistaken=Draw(options.seed)(f"mistakes of {params['model']}", prompt.user) < share,
        caches=caches,
        scope=scope,
        now=now,
        batch=batch,
        miss=lambda: Draw(options.seed)("cache_miss", key) < miss_rate,
    )


@_nothing_unforeseen()
def count(params: dict[str, Any], occasion: Occasion) -> int:
    """How many tokens a prompt has.

    Raises:
        ApiError: The request is malformed.
    """
    check_params(params, occasion)
    return read_prompt(params).tokens
