"""What both sides ask about each record, and the class that both let judge the answers."""

from typing import Literal

from pydantic import BaseModel, Field

MODEL = "claude-haiku-4-5"
MAX_TOKENS = 256
USD_IN, USD_OUT = 0.5e-6, 2.5e-6  # a token, in a batch
SYSTEM = """\
You keep the catalogue of a software archive. You get one package at a time: its name, its one-line
summary, its size and its description, as its maintainer wrote it. You read nothing but these lines,
and there is nobody whom you could ask, so always give the most likely answer.

- The name often decides: a prefix or an ending that a language or a kind of package uses weighs
  more than the words of the description.
- A package that holds nothing but files for building other programs is for developers, whatever the
  programs are about.
- Numbers, versions and dates in the description say nothing about what a package is for. Leave them
  out of the answer.
- Write for somebody who manages servers and has never heard of the package. One short sentence, no
  praise, no abbreviations that the description does not explain.
"""
PROMPT = """\
Package: {{ package }}
Summary: {{ summary }}
Installed size: {{ installed_kb }} kB
Description: {{ description }}"""


class Entry(BaseModel):
    """What the catalogue says of a package."""

    audience: Literal["administrators", "developers", "users", "scientists"]
    confidence: float = Field(description="From 0 to 1.")
    is_library: bool
    keywords: list[str] = Field(description="Up to three words to find it by.")
    said: str = Field(description="One short sentence.")
