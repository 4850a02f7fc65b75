"""What a front door says of thinking is what each model takes."""

import pytest

from batch_pipeline import Classify
from batch_pipeline.emulator.catalog import _ALIASES, MODELS, find_model
from batch_pipeline.emulator.rules import Occasion, check_params
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.tasks.thinking import MUCH, MUCH_ROOM, ROOM, without_thinking

OFF = ("disabled", "between_tools")
TOO_OLD = "claude-haiku-4-5"


@pytest.mark.parametrize("model", [*MODELS, *_ALIASES])
def test_a_model_is_told_not_to_think_where_it_would_and_takes_it(model: str) -> None:
    ways = find_model(model).ways
    for effort in (None, *ways.effort):
        given = {} if effort is None else {"output_config": {"effort": effort}}
        params, room = without_thinking(model, given)
        off = [kind for kind in OFF if kind in ways.thinking]
        # With so much effort some models must think: they are left to, and have the room.
        if not ways.thinks_unasked:
            expected = None, 0
        elif off and effort not in MUCH:
            expected = {"type": off[0]}, 0
        else:
            expected = None, MUCH_ROOM if effort in MUCH else ROOM
        assert (params.get("thinking"), room) == expected, (model, effort)
        template = Classify(["a", "b"], column="body", model=model, params=given).template
        assert template.max_tokens == 32 + room
        asked = compile_question(template, {"body": "VARCHAR"}).params({"body": "x"})
        check_params(asked, Occasion("batch"))
