"""What a request may ask of its model: each model takes other things, see `catalog`."""

from batch_pipeline.emulator.betas import (
    INTERLEAVED,
    LONG_OUTPUT,
    NEEDED_BY_SETTING,
    NEWEST_VERSION,
)
from batch_pipeline.emulator.catalog import MODELS
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.rules.rule import OUR_READING, Asked, needs_beta, rule
from batch_pipeline.emulator.rules.shape import a_text, an_integer, fields_of, one_of

MOST_LONG_OUTPUT = 300_000
LEAST_BUDGET = 1024
_KINDS = ("enabled", "disabled", "between_tools", "adaptive")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_SAMPLING = {"temperature": 1, "top_p": None, "top_k": None}


@rule("docs Errors: 404 not_found_error; that a relay maps names is the option any_model")
def unknown_model(asked: Asked) -> None:
    """A model that there is not: a 404."""
    name = a_text(asked.params["model"], "model", filled=True)
    if not asked.occasion.any_model and asked.model.id not in MODELS:
        raise ApiError("not_found_error", f"model: {name}")


@rule("docs batch processing 2026-09-26 (reference 2); SDK types/message_create_params.py for 0")
def max_tokens_below_one(asked: Asked) -> None:
    """`max_tokens` below 0, and 0 in a batch."""
    max_tokens = asked.params.get("max_tokens", 1)
    if max_tokens < (1 if asked.occasion.batch else 0):
        least = 1 if asked.occasion.batch else 0
        raise invalid(f"max_tokens: Input should be greater than or equal to {least}")


@rule("docs, the model pages: max output; reference 9 for 300,000")
def max_tokens_above_limit(asked: Asked) -> None:
    """`max_tokens` above what the model gives; in a batch a beta lets newer ones give 300,000."""
    max_tokens, model = asked.params.get("max_tokens", 1), asked.model
    long = asked.occasion.batch and model.long_output and asked.occasion.allows((LONG_OUTPUT,))
    most = MOST_LONG_OUTPUT if long else model.max_output
    if max_tokens > most:
        raise invalid(
            f"max_tokens: {max_tokens} > {most}, which is the maximum allowed number of output "
            f"tokens for {asked.params['model']}"
        )


@rule("SDK types/thinking_config_*_param.py, types/beta; docs Errors for block_binding")
def wrong_thinking(asked: Asked) -> None:
    """`thinking` of no kind, or with fields that its kind has not."""
    thinking = asked.params.get("thinking")
    if thinking is None:
        return
    if "type" not in thinking:
        raise invalid("thinking.type: Field required")
    kind = one_of(thinking["type"], _KINDS, "thinking.type")
    optional = {"type": "any"}
    if kind in ("enabled", "adaptive"):
        optional |= {"display": "any", "block_binding": "object?"}
    required = {"budget_tokens": "integer"} if kind == "enabled" else {}
    fields_of(thinking, f"thinking.{kind}", required, optional)
    display = thinking.get("display")
    if display is not None:
        one_of(display, ("summarized", "omitted", "updates"), f"thinking.{kind}.display")
        if display == "updates":
            needs_beta(asked, "thinking.display", NEEDED_BY_SETTING["thinking.display"])
    if thinking.get("block_binding") is not None:
        needs_beta(asked, "thinking.block_binding", NEEDED_BY_SETTING["thinking.block_binding"])


@rule(
    "docs: what's new in Opus 5.5, Sonnet 5.5, Opus 5; Adaptive thinking; anthropics/claude-code#56497"
)
def thinking_the_model_refuses(asked: Asked) -> None:
    """A kind of thinking that the model has not."""
    kind, taken = asked.thinking, asked.model.ways.thinking
    if kind is None or kind in taken:
        return
    if "adaptive" in taken:
        raise invalid(
            f'"thinking.type.{kind}" is not supported for this model. Use "thinking.type.adaptive" '
            'and "output_config.effort" to control thinking behavior.'
        )
    raise invalid(
        f"{'adaptive' if kind == 'adaptive' else kind} thinking is not supported on this model"
    )


@rule("SDK types/thinking_config_enabled_param.py; interleaved: docs Extended thinking")
def wrong_budget(asked: Asked) -> None:
    """A thinking budget below 1,024, or not below `max_tokens`."""
    if asked.thinking != "enabled":
        return
    budget = an_integer(asked.params["thinking"]["budget_tokens"], "thinking.enabled.budget_tokens")
    if budget < LEAST_BUDGET:
        raise invalid(
            f"thinking.enabled.budget_tokens: Input should be greater than or equal to {LEAST_BUDGET}"
        )
    interleaved = asked.occasion.betas and INTERLEAVED in asked.occasion.betas
    if budget >= asked.params.get("max_tokens", budget + 1) and not interleaved:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")


@rule(
    "SDK types/output_config_param.py; anthropics/claude-code#30010; levels of a model: docs Effort"
)
def effort_the_model_refuses(asked: Asked) -> None:
    """An effort that there is not, or that the model has not."""
    effort = asked.effort
    if effort is None:
        return
    one_of(effort, _EFFORTS, "output_config.effort")
    levels = asked.model.ways.effort
    if not levels:
        raise invalid("This model does not support the effort parameter.")
    if effort not in levels:
        raise invalid(
            f"output_config.effort: '{effort}' is not supported for this model; it takes "
            f"{', '.join(levels)}"
        )


@rule("docs What's new in Claude Opus 5; anthropics/claude-code#76997 has the words")
def effort_without_thinking(asked: Asked) -> None:
    """An effort above high where thinking is disabled, on Opus 5 and Haiku 5.5."""
    effort = asked.effort
    if asked.thinking == "disabled" and effort is not None:
        if effort not in asked.model.ways.effort_unthinking:
            raise invalid(
                f"output_config.effort '{effort}' is not supported when thinking is disabled on "
                "this model. Use effort 'high' or below, or enable thinking."
            )


@rule("docs API versioning, Migrating to 2026-10-21 (codersera.com, developersdigest.tech)")
def sampling_is_gone(asked: Asked) -> None:
    """Under version 2026-10-21 `temperature`, `top_p`, `top_k`, whatever their value and the model."""
    if asked.occasion.version != NEWEST_VERSION:
        return
    for name in _SAMPLING:
        if name in asked.params:
            raise invalid(
                f"{name}: Extra inputs are not permitted. Sampling parameters were removed in API "
                f"version {NEWEST_VERSION}."
            )


@rule("docs Errors; BerriAI/litellm#37868 has the words; both at once: Haiku 4.5 migration guide")
def sampling_the_model_refuses(asked: Asked) -> None:
    """Under earlier versions: out of range, both at once, or another than the default from 4.7 on."""
    params, model = asked.params, asked.model
    for name, default in _SAMPLING.items():
        value = params.get(name)
        if value is None:
            continue
        if name != "top_k" and not 0 <= value <= 1:
            raise invalid(f"{name}: range: 0..1")
        if name == "top_k" and value < 0:
            raise invalid("top_k: Input should be greater than or equal to 0")
        if not model.ways.sampling and value != default:
            raise invalid(f"`{name}` is deprecated for this model.")
    both = params.get("temperature") is not None and params.get("top_p") is not None
    if both and not asked.occasion.any_model:
        raise invalid(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        )


@rule("SDK types/message_create_params.py: auto, standard_only")
def wrong_service_tier(asked: Asked) -> None:
    """A `service_tier` that there is not."""
    if "service_tier" in asked.params:
        one_of(asked.params["service_tier"], ("auto", "standard_only"), "service_tier")


@rule("SDK types/message_create_params.py; docs Fast mode: which models; its words are our reading")
def wrong_speed(asked: Asked) -> None:
    """A `speed` that there is not, fast on a model that has no fast mode, any without its beta on Opus 5 and 4.8."""
    speed, fast = asked.params.get("speed"), asked.model.ways.fast
    if speed is None:
        return
    one_of(speed, ("standard", "fast"), "speed")
    if fast == "beta":
        needs_beta(asked, "speed", ("fast-mode-2026-02-01",))
    if speed == "fast" and fast == "no":
        raise invalid("speed: 'fast' is not supported for this model")


@rule(OUR_READING)
def wrong_geo(asked: Asked) -> None:
    """An `inference_geo` other than us and global, or on a model before 4.6."""
    geo = asked.params.get("inference_geo")
    if geo is None:
        return
    one_of(geo, ("us", "global"), "inference_geo")
    if not asked.model.geo:
        raise invalid("inference_geo: is not supported for this model")
