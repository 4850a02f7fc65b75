"""Facts found in a text: words, labelled lines, numbers, dates, currencies, sentences."""

import re
from datetime import date
from functools import cached_property, lru_cache

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LABEL = re.compile(r"^[\s>*\-•]*([A-Za-z][\w /\-]{0,40}?)\s*[:=]\s*(\S.*?)\s*$", re.M)
_HINT = re.compile(
    r"^[\s>*\-•\d.)]*[\"'`*]*([^\W\d_][\w &/\-]{0,40}?)[\"'`*]*"
    r"\s*(?::|=|—|\u2013| - |->|→)\s*(\S.*)$",
    re.M,
)
_CURRENCY_OF_MARK = {
    "₹": "INR",
    "rs": "INR",
    "rupee": "INR",
    "rupees": "INR",
    "$": "USD",
    "us$": "USD",
    "dollar": "USD",
    "dollars": "USD",
    "€": "EUR",
    "euro": "EUR",
    "euros": "EUR",
    "£": "GBP",
    "pound": "GBP",
    "pounds": "GBP",
    "¥": "JPY",
    "yen": "JPY",
}
_CODES = (
    "INR|USD|EUR|GBP|JPY|CHF|AUD|CAD|CNY|SEK|NOK|DKK|PLN|SGD|AED|NZD|ZAR|BRL|MXN|HKD|KRW|TRY|CZK"
)
_MARK = rf"(?:US\$|[₹$€£¥]|\bRs\b\.?|\b(?:{_CODES})\b)"
_MARK_AFTER = rf"(?:[₹$€£¥]|(?:{_CODES}|Rs|rupees?|dollars?|euros?|pounds?|yen)\b)"
_CURRENCY = re.compile(rf"{_MARK}|\b(?:rupees?|dollars?|euros?|pounds?|yen)\b", re.I)
_NUMBER = re.compile(
    rf"(?P<before>{_MARK}\s*)?(?<![\w.,])(?P<digits>-?\d[\d,.]*)(?P<percent>\s?%)?"
    rf"(?:\s?(?P<scale>k|lakhs?|crores?|million|billion)\b)?(?P<after>\s?{_MARK_AFTER})?(?![\w-])",
    re.I,
)
_SCALE = {"k": 1e3, "lakh": 1e5, "crore": 1e7, "million": 1e6, "billion": 1e9}
_MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = (
    re.compile(r"\b(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?!\d)"),
    re.compile(r"\b(?P<day>\d{1,2})[-/.](?P<month>\d{1,2})[-/.](?P<year>\d{4}|\d{2})(?!\d)"),
    re.compile(
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[\s\-/]+(?:of\s+)?{_MONTH}[\s,\-/]+(?P<year>\d{{4}}|\d\d)\b",
        re.I,
    ),
    re.compile(rf"\b{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})\b", re.I),
)
LARGEST = 2.0**53
# Patterns are looked for only in the beginning of a text: on a long and odd one they take for ever.
_LOOKED_AT = 10_000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """A word without case and the commonest English endings."""
    word = word.lower()
    for ending, put in (("ies", "y"), ("ing", ""), ("ed", ""), ("s", "")):
        if len(word) > len(ending) + 2 and word.endswith(ending) and not word.endswith("ss"):
            return word[: -len(ending)] + put
    return word


def stems(text: str) -> list[str]:
    """The stems of the words in a text or a name such as `totalAmount` or `is_urgent`."""
    return [stem(word) for word in _WORD.findall(_CAMEL.sub(" ", text))]


def read_hints(text: str) -> list[tuple[str, frozenset[str]]]:
    """Lines of the form `Value: words that speak for it`, as value and stems of the words."""
    return [(value.strip(), frozenset(stems(words))) for value, words in _HINT.findall(text)]


def parse_number(digits: str) -> float | None:
    """`1,24,500.50`, `1.234,56`, `12,5`, `1200` as a number; None if it is none."""
    digits = digits.rstrip(".,")
    if "," in digits and "." in digits:
        decimal = max(digits.rfind(","), digits.rfind("."))
        whole = re.sub(r"[.,]", "", digits[:decimal])
        digits = f"{whole}.{digits[decimal + 1 :]}"
    elif "," in digits:
        groups = digits.split(",")
        is_decimal = len(groups) == 2 and len(groups[1]) != 3
        digits = digits.replace(",", "." if is_decimal else "")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    try:
        number = float(digits)
    except ValueError:
        return None
    # Beyond this JSON's numbers are not exact, and no text means such a number.
    return number if abs(number) < LARGEST else None


class Number:
    """A number in a text: its value, whether a currency stands with it, and the words before."""

    __slots__ = ("before", "is_money", "is_percent", "value")

    def __init__(self, value: float, is_money: bool, is_percent: bool, before: list[str]) -> None:
        self.value = value
        self.is_money = is_money
        self.is_percent = is_percent
        self.before = before


class Reading:
    """A text and what can be found in it. Each fact is looked for when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text[:_LOOKED_AT]

    @cached_property
    def stems(self) -> frozenset[str]:
        return frozenset(stems(self.text))

    @cached_property
    def labelled(self) -> list[tuple[frozenset[str], str]]:
        """Lines of the form `Supplier: Acme`, as stems of the label and value."""
        return [(frozenset(stems(label)), value) for label, value in _LABEL.findall(self.text)]

    @cached_property
    def dates(self) -> list[date]:
        found = []
        for pattern in _DATES:
            for match in pattern.finditer(self.text):
                day = _date_of(match)
                if day is not None:
                    found.append((match.start(), day))
        return [day for _, day in sorted(found)]

    @cached_property
    def numbers(self) -> list[Number]:
        """Every number that is not part of a date or of a reference such as `INV-2041`."""
        text = self.text
        for pattern in _DATES:
            text = pattern.sub(" ", text)
        found = []
        for match in _NUMBER.finditer(text):
            start = match.start("digits")
            if start and match["before"] is None and text[start - 1] == "-":
                continue
            value = parse_number(match["digits"])
            if value is None:
                continue
            value *= _SCALE.get((match["scale"] or "").lower().rstrip("s"), 1)
            if abs(value) >= LARGEST:
                continue
            is_money = match["before"] is not None or match["after"] is not None
            before = stems(text[max(0, start - 30) : start])
            found.append(Number(value, is_money, match["percent"] is not None, before))
        return found

    @cached_property
    def currency(self) -> str | None:
        match = _CURRENCY.search(self.text)
        if match is None:
            return None
        mark = match.group().lower().rstrip(".")
        return _CURRENCY_OF_MARK.get(mark, mark.upper())

    @cached_property
    def body(self) -> str:
        """The longest labelled value or paragraph: most likely what the text is about."""
        lines = [value for _, value in self.labelled] or self.text.splitlines()
        return max((line.strip() for line in lines), key=len, default="") or self.text.strip()

    @cached_property
    def sentences(self) -> list[str]:
        return [part for part in (s.strip() for s in _SENTENCE_END.split(self.body)) if part]

    def extract(self, length: int) -> str:
        """The beginning of what the text is about, cut at a word."""
        whole = " ".join(self.body.split())
        if len(whole) <= length:
            return whole
        return whole[:length].rsplit(" ", 1)[0].rstrip(" ,;:")

    def label_value(self, name_stems: frozenset[str]) -> str | None:
        """The value of the labelled line whose label shares most words with a name."""
        best, best_score = None, 0.0
        for label, value in self.labelled:
            common = len(label & name_stems)
            score = common / len(label | name_stems) if common else 0.0
            if score > best_score:
                best, best_score = value, score
        return best


def _date_of(match: re.Match[str]) -> date | None:
    month: str = match["month"]
    try:
        # Signs that look alike count as the same letter in a pattern, but are none of its months.
        number = int(month) if month.isdecimal() else _MONTHS.index(month[:3].lower()) + 1
        year = int(match["year"])
        return date(year + 2000 if year < 100 else year, number, int(match["day"]))
    except ValueError:
        return None
