"""One free dry run of a question before anything of it is paid: would the API take its requests?

What the API refuses in every request (a model that it does not know, thinking that the model has not, a longer
answer than it gives) is found by counting the tokens of the first one, and by a look at the model. Nothing that
goes wrong on the way stops a run: only the API's own words do, and only where they are not about one record.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from batch_pipeline.batches.outcome import RequestRefused
from batch_pipeline.errors import BatchPipelineError, InputError, plain, sentence
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.template import MessageTemplate

SHORT = [{"role": "user", "content": "."}]
LONG_OUTPUT = "output-300k"
"""The beginning of the beta with which a batch gives longer answers, and how long these may be."""
MOST_LONG_OUTPUT = 300_000
MOST_TRIED = 3
"""Requests that the API must refuse in the same words before that is the question's fault and no record's."""
SHOWN = 5
_DATE = re.compile(r"-\d{8}$")
ALL_THE_SAME = (
    "ClaudeBatches(dry_run=False) sends without this look, where what stands at this address judges otherwise "
    "than the API."
)


class Api(Protocol):
    """What is asked of an endpoint."""

    base_url: str

    def count_tokens(self, params: Mapping[str, Any]) -> int:
        """Return the tokens of a request."""
        ...

    def longest_answer(self, model: str) -> int | None:
        """Return how many tokens a model gives at most; None: no such model is known."""
        ...

    def model_names(self) -> list[str]:
        """Return the names of all models."""
        ...


class CountedOnce:
    """Counts tokens, each request once: what was tried is not counted again for the estimate."""

    def __init__(self, counting: Callable[[Mapping[str, Any]], int]) -> None:
        self._counting = counting
        self._known: dict[bytes, int | RequestRefused] = {}

    @property
    def has_counted(self) -> bool:
        """Whether anything was counted, so that more can be."""
        return any(isinstance(found, int) for found in self._known.values())

    def __call__(self, params: Mapping[str, Any]) -> int:
        """Return what was counted.

        Raises:
            BatchPipelineError: as the counting does; a refusal is remembered, too.
        """
        key = hashlib.sha256(orjson.dumps(params)).digest()
        if key not in self._known:
            try:
                self._known[key] = self._counting(params)
            except RequestRefused as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, RequestRefused):
            raise found
        return found


def dry_run(
    question: CompiledTemplate,
    lines: Sequence[bytes],
    api: Api,
    counting: Callable[[Mapping[str, Any]], int],
) -> str | None:
    """Find out whether the API takes the requests of a question, at no cost.

    Args:
        question: what is asked.
        lines: some of its requests; one is enough where the API takes it.
        api: the endpoint.
        counting: counts the tokens of a request there.

    Returns:
        None when it does. Else why that is not known.

    Raises:
        InputError: it refuses every one of them; it says why, and what to change.
    """
    template = question.template
    params = [orjson.loads(line)["params"] for line in lines[:MOST_TRIED]]
    try:
        counting(params[0])
    except RequestRefused as refused:
        if refused.kind == "not_found_error":
            _refuse_unknown_model(template, api, refused)
        else:
            _refuse_question(params, api, counting, refused)
        return str(refused)
    except (BatchPipelineError, OSError, ValueError, OverflowError) as error:
        return str(error)
    try:
        longest = api.longest_answer(template.model)
    except (BatchPipelineError, OSError, ValueError) as error:
        return str(error)
    if longest is not None:
        _refuse_long_answers(template, api, longest)
    return None


def _refuse_unknown_model(template: MessageTemplate, api: Api, refused: RequestRefused) -> None:
    """Refuse a name that the API does not know, unless it may be a route that it does not know.

    Only a list of models that lacks the name proves that: a relay may give names of its own to batches alone.
    """
    if template.model not in refused.said:
        return
    try:
        if api.longest_answer(template.model) is not None:
            return
        names = api.model_names()
    except (BatchPipelineError, OSError, ValueError):
        return
    if not names or template.model in names:
        return
    undated = {_DATE.sub("", name): name for name in reversed(names)} | {n: n for n in names}
    near = difflib.get_close_matches(template.model, undated, 1)
    hint = ""
    if near:
        # A short name stands for a model as well, if the API knows it.
        known = near[0] in names or _is_known(near[0], api)
        hint = f" Did you mean {near[0] if known else undated[near[0]]}?"
    else:
        hint = f" It knows {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}."
    raise InputError(
        f"{api.base_url} knows no model {plain(template.model)} ({refused.said}).{hint} Correct `model` and run "
        f"again. Nothing was sent. {ALL_THE_SAME}"
    )


def _is_known(model: str, api: Api) -> bool:
    try:
        return api.longest_answer(model) is not None
    except (BatchPipelineError, OSError, ValueError):
        return False


def _refuse_question(
    params: Sequence[Mapping[str, Any]],
    api: Api,
    counting: Callable[[Mapping[str, Any]], int],
    refused: RequestRefused,
) -> None:
    """Refuse what the API finds wrong with every request, unless that may be one record's fault."""
    # A relay that does not count at all, or not for this model, says nothing about the question.
    if not _is_counted({"model": params[0]["model"], "messages": SHORT}, counting):
        return
    if not _is_refused({**params[0], "messages": SHORT}, counting):
        words = {_refusal(one, counting) for one in params}
        if len(params) < MOST_TRIED or words != {refused.said}:
            return
    raise InputError(
        f"{api.base_url} refuses every request of this question: {sentence(refused.said)} Correct what it names in "
        f"the MessageTemplate and run again. Nothing was sent. {ALL_THE_SAME}"
    )


def _refusal(params: Mapping[str, Any], counting: Callable[[Mapping[str, Any]], int]) -> str | None:
    try:
        counting(params)
    except RequestRefused as refused:
        return refused.said
    except (BatchPipelineError, OSError, ValueError, OverflowError):
        pass
    return None


def _is_refused(params: Mapping[str, Any], counting: Callable[[Mapping[str, Any]], int]) -> bool:
    return _refusal(params, counting) is not None


def _is_counted(params: Mapping[str, Any], counting: Callable[[Mapping[str, Any]], int]) -> bool:
    try:
        return counting(params) > 0
    except (BatchPipelineError, OSError, ValueError, OverflowError):
        return False


def _refuse_long_answers(template: MessageTemplate, api: Api, longest: int) -> None:
    """Refuse to ask for longer answers than a model gives."""
    most = longest
    if any(beta.startswith(LONG_OUTPUT) for beta in template.betas):
        most = max(longest, MOST_LONG_OUTPUT)
    for field in ("max_tokens", "max_tokens_limit"):
        wanted = getattr(template, field)
        if wanted is not None and wanted > most:
            raise InputError(
                f"{field} of the MessageTemplate is {wanted:,}, and {plain(template.model)} gives at most {most:,} "
                f"tokens, as {api.base_url} says: it would refuse each such request. Lower it and run again. "
                f"Nothing was sent. {ALL_THE_SAME}"
            )
