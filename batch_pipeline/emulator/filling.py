"""Filling a JSON schema from a text."""

import re
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from batch_pipeline.emulator.errors import ApiError
from batch_pipeline.emulator.outcomes import Draw
from batch_pipeline.emulator.reading import LARGEST, Reading, parse_number, read_hints, stems
from batch_pipeline.emulator.schemas import resolve

_EXTRACT = 80
_SUMMARY = 160
_NEITHER = frozenset(("other", "unknown", "none", "misc", "miscellaneou", "general", "neutral"))
_NEGATIONS = frozenset(("no", "not", "without", "never", "non"))
_REASONS = frozenset(("reason", "rationale", "explanation", "justification", "because", "why"))
_SUMMARIES = frozenset(("summary", "description", "note", "comment", "text", "translation"))
_SHARES = frozenset(("confidence", "probability", "certainty", "likelihood"))
_SCORES = frozenset(("score", "rating", "star", "grade"))
_COUNTS = frozenset(("quantity", "count", "unit", "piece", "qty", "item"))
_DATE_NAMES = frozenset(("date", "day", "deadline", "due"))
_REFERENCES = frozenset(("id", "reference", "ref", "code", "number", "no", "sku", "invoice"))
_NAMES = frozenset(("name", "supplier", "vendor", "company", "customer", "person", "merchant"))

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_URL = re.compile(r"https?://[^\s<>\"']+")
_PHONE = re.compile(r"\+?\d[\d ()-]{7,}\d")
_REFERENCE = re.compile(r"\b(?=[\w/-]*\d)(?=[\w/-]*[A-Za-z])[A-Za-z0-9][\w/-]{2,}\b")
_CAPITALISED = re.compile(r"\b[A-Z][\w&.'-]*(?: (?:&|of|and|[A-Z][\w&.'-]*))*\b")
_NO_DATE = date(2000, 1, 1)
# A schema of a tool that is not strict may ask for anything; this is as far as it is followed.
_DEEPEST = 40
_MOST_PARTS = 20_000
_MOST_ITEMS = 20
_LONGEST = 1_000
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")
_SEARCHED = 2_000
_SHORT = 12
_OF_FORMAT = {
    "email": "unknown@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "duration": "P1D",
    "time": "00:00:00Z",
}


class Filled(NamedTuple):
    """A value, and whether the text gave reason for it."""

    value: Any
    found: bool


@lru_cache(maxsize=512)
def _hints_of(text: str) -> list[tuple[str, frozenset[str]]]:
    # The system prompt and the schema are the same for all requests of a batch.
    return read_hints(text)


@lru_cache(maxsize=4096)
def _stems_of(name: str) -> frozenset[str]:
    return frozenset(stems(name))


class Filler:
    """Fills one schema from one prompt, always with the same result.

    Args:
        schema: JSON schema.
        text: What the user asked: the record.
        system: System prompt; its lines `Value: words` say which words speak for an enum value.
        digest: A text that the first free string becomes, or None.
        mistaken: Of values that the schema lists, another one is chosen, and most often with less confidence.
    """

    def __init__(
        self,
        schema: dict[str, Any],
        text: str,
        system: str = "",
        digest: str | None = None,
        mistaken: bool = False,
    ) -> None:
        self._mistaken = mistaken
        self._root = schema
        self._reading = Reading(text)
        self._system = system
        self._digest = digest
        self._draw = Draw(0)
        self._depth = 0
        self._parts = 0

    def fill(self) -> Any:
        return self._fill(self._root, "").value

    def _fill(self, schema: Any, name: str) -> Filled:
        self._depth += 1
        try:
            # Only the schema of a tool that is not strict can be so deep, or nothing but a truth.
            self._parts += 1
            too_much = self._depth > _DEEPEST or self._parts > _MOST_PARTS
            if too_much or not isinstance(schema, dict):
                return Filled(None, False)
            return self._fill_one(self._flattened(schema), name)
        finally:
            self._depth -= 1

    def _fill_one(self, schema: dict[str, Any], name: str) -> Filled:
        if "const" in schema:
            return Filled(schema["const"], True)
        if schema.get("enum"):
            return self._choose(schema, name)
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            return self._fill_union(schema, branches, name)
        types = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(types, list):
            return self._fill_union(schema, [{**schema, "type": kind} for kind in types], name)
        by_type: dict[str, Callable[[dict[str, Any], str], Filled]] = {
            "object": self._fill_object,
            "array": self._fill_array,
            "string": self._fill_string,
            "integer": self._fill_number,
            "number": self._fill_number,
            "boolean": self._fill_boolean,
        }
        return by_type.get(types, lambda *_: Filled(None, False))(schema, name)

    def _flattened(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with references and `allOf` put in."""
        for _ in range(_DEEPEST):
            if "$ref" not in schema:
                break
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**self._resolved(schema["$ref"]), **beside}
        for part in schema.get("allOf", ()):
            part = self._flattened(part) if isinstance(part, dict) else {}
            properties = {**schema.get("properties", {}), **part.get("properties", {})}
            schema = {**part, **schema, **({"properties": properties} if properties else {})}
        return schema

    def _resolved(self, reference: Any) -> dict[str, Any]:
        """What a reference points to; nothing where a tool that is not strict points to nothing."""
        try:
            found: Any = resolve(self._root, reference)
        except ApiError:
            return {}
        return found if isinstance(found, dict) else {}

    def _fill_union(
        self, schema: dict[str, Any], branches: list[dict[str, Any]], name: str
    ) -> Filled:
        described = {"description": schema["description"]} if "description" in schema else {}
        filled = [
            self._fill({**described, **branch}, name)
            for branch in branches
            if isinstance(branch, dict) and branch.get("type") != "null"
        ]
        found = next((one for one in filled if one.found), None)
        if found is not None:
            return found
        return Filled(None, False) if len(filled) < len(branches) or not filled else filled[0]

    def _fill_object(self, schema: dict[str, Any], name: str) -> Filled:
        filled = {key: self._fill(part, key) for key, part in schema.get("properties", {}).items()}
        found = not filled or any(one.found for one in filled.values())
        return Filled({key: one.value for key, one in filled.items()}, found)

    def _fill_array(self, schema: dict[str, Any], name: str) -> Filled:
        items = schema.get("items") or {"type": "string"}
        items = self._flattened(items) if isinstance(items, dict) else {"type": "string"}
        least, most = (
            int(min(schema.get("minItems", 0), _MOST_ITEMS)),
            int(schema.get("maxItems", 5)),
        )
        if items.get("enum"):
            values = [value for value, score in self._scored(items) if score > 0]
        elif items.get("type") in ("number", "integer"):
            numbers = [number.value for number in self._reading.numbers]
            values = [round(n) if items["type"] == "integer" else n for n in numbers]
        elif items.get("type") == "string" and "format" not in items and not self._digest:
            labelled = self._reading.label_value(_stems_of(name)) or ""
            values = [part.strip() for part in re.split(r"[,;]", labelled) if part.strip()]
        else:
            values = []
        values = _distinct(values)[:most]
        if not values and (least or items.get("type") in ("object", "string")):
            filled = self._fill(items, name)
            values = [filled.value] * max(least, 1 if filled.found else 0)
        while len(values) < least:
            values.append(self._fill(items, name).value)
        return Filled(values, bool(values))

    # Choices

    def _scored(self, schema: dict[str, Any]) -> list[tuple[Any, float]]:
        """Each value of an enum with how much in the text speaks for it."""
        hints = _hints_of(self._system) + _hints_of(
            re.sub(r"[;\n]\s*|(?<!\d)\.\s+", "\n", schema.get("description", ""))
        )
        words = self._reading.stems
        scored = []
        for value in schema["enum"]:
            own = _stems_of(str(value))
            score = 2.0 * len(own & words) / max(len(own), 1)
            for hinted, speaking in hints:
                if _stems_of(hinted) == own:
                    score += len(speaking & words)
            scored.append((value, score))
        return scored

    def _choose(self, schema: dict[str, Any], name: str) -> Filled:
        right = self._choose_right(schema, name)
        others = [value for value in schema["enum"] if value != right.value]
        if not self._mistaken or not others:
            return right
        pick = int(self._draw(f"mistaken {name}", self._reading.text) * len(others))
        return Filled(others[pick], right.found)

    def _choose_right(self, schema: dict[str, Any], name: str) -> Filled:
        labelled = self._reading.label_value(_stems_of(name)) if name else None
        if "currency" in _stems_of(name) and self._reading.currency in schema["enum"]:
            return Filled(self._reading.currency, True)
        scored = self._scored(schema)
        for value, _ in scored:
            if labelled is not None and str(value).lower() == labelled.lower():
                return Filled(value, True)
        best = max(score for _, score in scored)
        if best > 0:
            return Filled(next(value for value, score in scored if score == best), True)
        values = schema["enum"]
        for value in values:
            if value is None or _stems_of(str(value)) & _NEITHER:
                return Filled(value, False)
        pick = int(self._draw(name, self._reading.text) * len(values))
        return Filled(values[pick], False)

    # Single values

    def _fill_boolean(self, schema: dict[str, Any], name: str) -> Filled:
        wanted = _stems_of(name) - {"is", "ha", "has", "need", "wa", "was"}
        labelled = self._reading.label_value(wanted)
        if labelled is not None and labelled.lower() in ("yes", "no", "true", "false"):
            return Filled(labelled.lower() in ("yes", "true"), True)
        spoken = wanted & self._reading.stems
        if not spoken:
            return Filled(False, False)
        ordered = stems(self._reading.text)
        before = [ordered[max(0, at - 2) : at] for at, word in enumerate(ordered) if word in spoken]
        negated = all(_NEGATIONS & set(words) for words in before)
        return Filled(not negated, True)

    def _fill_number(self, schema: dict[str, Any], name: str) -> Filled:
        whole = schema["type"] == "integer"
        value, found = self._number(_stems_of(name), whole)
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        if least is not None:
            value = max(value, least + ("exclusiveMinimum" in schema))
        if most is not None:
            value = min(value, most - ("exclusiveMaximum" in schema))
        if (whole or float(value).is_integer()) and abs(value) < LARGEST:
            value = round(value)
        return Filled(value, found)

    def _number(self, name: frozenset[str], whole: bool) -> tuple[float, bool]:
        reading = self._reading
        if name & _SHARES and self._mistaken and self._draw("unsure", reading.text) < 0.9:
            return round(0.3 + 0.39 * self._draw("share", reading.text), 2), True
        if name & _SHARES:
            return round(0.6 + 0.39 * self._draw("share", reading.text), 2), True
        if name & _SCORES and not reading.numbers:
            return 1 + int(5 * self._draw("score", reading.text)), True
        labelled = reading.label_value(name)
        if labelled is not None:
            in_label = Reading(labelled).numbers
            if in_label:
                return in_label[0].value, True
            if (plain := parse_number(labelled)) is not None:
                return plain, True
        near = [number for number in reading.numbers if name & set(number.before)]
        money = [number for number in reading.numbers if number.is_money]
        plain_numbers = [number for number in reading.numbers if not number.is_money]
        percents = [number for number in reading.numbers if number.is_percent]
        if percents and name & {"percent", "percentage", "rate", "discount", "tax"}:
            return percents[0].value, True
        if whole and name & _COUNTS and plain_numbers:
            return plain_numbers[0].value, True
        for numbers in (near, money):
            if numbers:
                return max(number.value for number in numbers), True
        if plain_numbers:
            return plain_numbers[0].value, True
        return 0, False

    def _fill_string(self, schema: dict[str, Any], name: str) -> Filled:
        if schema.get("format") in ("date", "date-time") or (
            "format" not in schema and _stems_of(name) & _DATE_NAMES and self._reading.dates
        ):
            return self._fill_date(schema, name)
        if schema.get("format") in _OF_FORMAT:
            found = self._formatted(schema["format"])
            return Filled(found or _OF_FORMAT[schema["format"]], found is not None)
        if "pattern" in schema:
            return self._fill_pattern(schema["pattern"])
        if self._digest is not None:
            digest, self._digest = self._digest, None
            return Filled(digest, True)
        value, found = self._string(_stems_of(name))
        value = value[: int(schema.get("maxLength", len(value)))]
        return Filled(value.ljust(int(min(schema.get("minLength", 0), _LONGEST)), "."), found)

    def _fill_date(self, schema: dict[str, Any], name: str) -> Filled:
        labelled = self._reading.label_value(_stems_of(name))
        dates = (Reading(labelled).dates if labelled else []) or self._reading.dates
        day = (dates[0] if dates else _NO_DATE).isoformat()
        if schema.get("format") == "date-time":
            day += "T00:00:00Z"
        return Filled(day, bool(dates))

    def _formatted(self, form: str) -> str | None:
        pattern = {"email": _EMAIL, "uri": _URL}.get(form)
        match = pattern.search(self._reading.text) if pattern else None
        return match.group() if match else None

    def _fill_pattern(self, pattern: str) -> Filled:
        try:
            wanted = re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            return Filled("", False)  # A pattern that this language has not, as `\p{L}`.
        candidates = self._reading.text.split()
        if _is_quick(pattern):
            text = self._reading.text[:_SEARCHED]
            candidates = [match.group() for match in wanted.finditer(text)] + candidates
        else:
            # Each further sign may double the time that such a pattern takes.
            candidates = [one for one in candidates if len(one) <= _SHORT]
        for candidate in candidates:
            if candidate and wanted.search(candidate):
                return Filled(candidate, True)
        return Filled(_example_of(wanted), False)

    def _string(self, name: frozenset[str]) -> tuple[str, bool]:
        reading = self._reading
        if "currency" in name:
            return reading.currency or "USD", reading.currency is not None
        if name & _REASONS:
            return f'The text says "{reading.extract(_EXTRACT)}".', True
        labelled = reading.label_value(name)
        if labelled is not None:
            return labelled, True
        if name & _SUMMARIES:
            return reading.extract(_SUMMARY), True
        for wanted, pattern in (
            ({"email", "mail"}, _EMAIL),
            ({"url", "link", "website"}, _URL),
            ({"phone", "telephone", "mobile"}, _PHONE),
            (_REFERENCES, _REFERENCE),
            (_NAMES, _CAPITALISED),
        ):
            if name & wanted:
                match = pattern.search(reading.text)
                return (match.group() if match else reading.extract(_EXTRACT)), match is not None
        return reading.extract(_EXTRACT), True


def _is_quick(pattern: str) -> bool:
    """Whether looking for a pattern takes little time, whatever the text."""
    return not _REPEATED_GROUP.search(pattern) and len(_UNBOUNDED.findall(pattern)) <= 2


def _distinct(values: list[Any]) -> list[Any]:
    """The values without those that were there before; also such as have no hash."""
    return [value for at, value in enumerate(values) if value not in values[:at]]


def _example_of(wanted: re.Pattern[str]) -> str:
    """Some text that a pattern takes, if one of a few usual ones does."""
    for example in ("A", "AAA", "0", "0000", "AA-0000", "a", "2000-01-01", "0.00", "USD", "en"):
        if wanted.search(example):
            return example
    return ""
