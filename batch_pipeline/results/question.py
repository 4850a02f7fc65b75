"""What an answer must look like, as the ledger keeps it."""

from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.records.connections import quote_name, quote_text
from batch_pipeline.requests.compiled import CITATIONS, THINKING, TOOL_CALLS, answer_columns
from batch_pipeline.requests.own_prices import OwnPrices, prices_to_store
from batch_pipeline.requests.schema import OutputSchema


@dataclass(frozen=True)
class Question:
    """What an answer must look like, as it was when it was asked (the code may have changed since).

    The ledger keeps the JSON Schema of an output, and no pydantic class. When answers come, the class
    of today's code judges them if its schema is the one that was asked: its validators are those of
    today. If it has another schema by now, or is gone, the schema that was asked judges alone.

    Attributes:
        output: the schema of answers; None for plain text.
        prefix: put before the names of the output's columns.
        tool_calls: the user declared tools: there is a column for what the model calls.
        prices: that the user declared: what answers cost. Today's go before those of the asking.
        citations: documents asked for citations: there is a column for them.
        others: of today's code, the questions of the other variants.
        thinking: what the model thought is kept: there is a column for it.
    """

    output: OutputSchema | None
    prefix: str
    tool_calls: bool = False
    prices: OwnPrices = field(default_factory=dict)
    citations: bool = False
    thinking: bool = False
    others: "tuple[Question, ...]" = ()

    @classmethod
    def stored(cls, value: dict[str, Any], today: "Question | None" = None) -> "Question":
        """Read a question from the ledger.

        Args:
            value: as `to_store` returned it.
            today: the question of today's code, whose class judges if it asks for the same.
        """
        output = OutputSchema.stored(value["output"])
        # Questions of earlier versions do not say whether there are tools.
        tools = value.get("tool_calls", False)
        prices, cites = value.get("prices", {}), value.get("citations", False)
        thinks = value.get("thinking", False)
        if today is None:
            return cls(output, value["prefix"], tools, prices, cites, thinks)
        for one in (today, *today.others):
            if output is None or one.output is None:
                same = output is one.output
            else:
                same = output.fingerprint == one.output.fingerprint
            if same:
                output, tools = one.output, value.get("tool_calls", one.tool_calls)
                break
        return cls(output, value["prefix"], tools, {**prices, **today.prices}, cites, thinks)

    def to_store(self) -> dict[str, Any]:
        """Return what the ledger keeps of a question."""
        question = {
            "output": None if self.output is None else self.output.declared,
            "prefix": self.prefix,
            "tool_calls": self.tool_calls,
        }
        question |= {"prices": prices_to_store(self.prices)} if self.prices else {}
        question |= {"thinking": True} if self.thinking else {}
        return question | ({"citations": True} if self.citations else {})

    def outdates(self, today: "Question | None") -> bool:
        """Whether today's class has another schema than was asked, so that it does not judge."""
        models = [
            one.output.model
            for one in ((today, *today.others) if today else ())
            if one.output is not None and one.output.model is not None
        ]
        return bool(models) and (self.output is None or self.output.model not in models)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The output's columns and their DuckDB types."""
        columns = answer_columns(self.output, self.tool_calls, self.citations, self.thinking)
        return [(f"{self.prefix}{name}", kind) for name, kind in columns]

    def parsed(self) -> str:
        """Return SQL for the typed fields of a judged answer; NULL unless it was answered."""
        typed = (
            "struct_pack(answer := answer)"
            if self.output is None
            else f"json_transform(answer, {quote_text(self.output.structure)})"
        )
        return f"case when status = 'answered' then {typed} end"

    def select_list(self) -> str:
        """Return SQL that makes the output's columns of those fields."""
        names = ["answer"] if self.output is None else [name for name, _ in self.output.columns]
        fields = [
            f"judged.fields.{quote_name(name)} as {quote_name(self.prefix + name)}"
            for name in names
        ]
        if self.tool_calls:
            fields.append(f"judged.tool_calls::json as {quote_name(self.prefix + TOOL_CALLS)}")
        if self.citations:
            fields.append(f"judged.citations::json as {quote_name(self.prefix + CITATIONS)}")
        if self.thinking:
            fields.append(f"judged.thinking as {quote_name(self.prefix + THINKING)}")
        return ", ".join(fields)

    def null_list(self) -> str:
        """Return SQL for the output's columns of a record that has no answer."""
        return ", ".join(f"null::{kind} as {quote_name(name)}" for name, kind in self.columns)
