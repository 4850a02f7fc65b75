"""What of the Python SDK's tests cannot pass against the emulator, and how many do."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("python_sdk.toml")


@dataclass(frozen=True)
class Reason:
    """Why some tests cannot pass.

    Attributes:
        why: In words for people.
        says: Part of the error that they end with.
        tests: `FILE::NAME` below the SDK's `tests/api_resources`, without class and form.
    """

    why: str
    says: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class KeptList:
    """The list as it is kept.

    Attributes:
        version: Of the SDK.
        passed: How many tests passed, at least.
        reasons: What cannot pass.
    """

    version: str
    passed: int
    reasons: tuple[Reason, ...]


def kept_list() -> KeptList:
    """Read the list."""
    kept = tomllib.loads(LIST.read_text())
    reasons = (Reason(one["why"], one["says"], tuple(one["tests"])) for one in kept["cannot_pass"])
    return KeptList(kept["version"], kept["passed"], tuple(reasons))


def keep_passed(passed: int) -> None:
    """Write down that more tests pass."""
    LIST.write_text(re.sub(r"(?m)^passed = \d+$", f"passed = {passed}", LIST.read_text()))


def complaints(
    kept: KeptList, version: str, passed: int, failed: Mapping[str, Iterable[str]]
) -> list[str]:
    """What is worse than the list has it, or not as it says.

    Args:
        kept: The list.
        version: Of the SDK that was tried.
        passed: How many tests passed.
        failed: The tests that failed, by the names that the list has, with the errors of their forms.
    """
    found = []
    reason_of = {test: reason for reason in kept.reasons for test in reason.tests}
    if version != kept.version:
        found.append(f"the list is of {kept.version}, the SDK is {version}: go through the list")
    if passed < kept.passed:
        found.append(f"{passed} tests passed, {kept.passed} did before")
    for test, errors in failed.items():
        reason = reason_of.get(test)
        found += [
            f"{test} failed: {error}"
            for error in errors
            if reason is None or reason.says not in error
        ]
    found += [f"{test} passes: take it off the list" for test in reason_of if test not in failed]
    return found


def list_table() -> str:
    """The list as docs/emulator.md shows it."""
    rows = [
        f"| {'<br>'.join(f'`{test}`' for test in reason.tests)} | {reason.why} |"
        for reason in kept_list().reasons
    ]
    return "\n".join(["| cannot pass | why |", "|---|---|", *rows]) + "\n"
