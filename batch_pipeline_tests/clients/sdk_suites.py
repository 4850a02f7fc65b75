"""The official SDKs' own tests of the API, run against the emulator.

    python -m batch_pipeline_tests.clients.sdk_suites

The Python SDK's source comes from the package index, with its tests, into an environment of its own
in `.clients/`. What cannot pass, and why, stands in `python_sdk.toml`. The TypeScript SDK's package
has no tests; that it still has none is looked at where there is npm.
"""

import json
import shutil
import sys
import tarfile
import time
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline_tests.clients.kept_list import (
    complaints,
    keep_passed,
    kept_list,
    list_table,
)
from batch_pipeline_tests.clients.own_environment import (
    PIP,
    PLACE,
    ClientFailed,
    OwnEnvironment,
    run,
)
from batch_pipeline_tests.clients.page import write_table

SUITES = (
    "test_messages.py",
    "test_models.py",
    "test_files.py",
    "messages",
    "beta/test_messages.py",
    "beta/test_models.py",
    "beta/test_files.py",
    "beta/messages",
)
# Of what the SDK's developers install, what no test needs.
NOT_FOR_TESTS = ("pyright", "ruff", "boto3-stubs", "griffe")
TYPESCRIPT = "@anthropic-ai/sdk"


def fetch_source(environment: OwnEnvironment, wanted: str) -> Path:
    """Fetch the SDK's source, with its tests; return its folder."""
    folder = environment.folder / f"anthropic-{wanted}"
    if not (folder / "tests").is_dir():
        environment.install("pip")
        fetch = ("download", "--no-deps", "--no-binary", "anthropic", f"anthropic=={wanted}")
        run([environment.python, *PIP, *fetch], environment.folder)
        [packed] = environment.folder.glob(f"anthropic-{wanted}.tar.gz")
        with tarfile.open(packed) as archive:
            archive.extractall(environment.folder, filter="data")
    return folder


def install(environment: OwnEnvironment, source: Path) -> None:
    """Install the SDK from its source, and what its tests need in the versions that it names."""
    groups = tomllib.loads((source / "pyproject.toml").read_text())["dependency-groups"]
    needed = [one for one in groups["dev"] if not one.replace(" ", "").startswith(NOT_FOR_TESTS)]
    locked = (source / "requirements-dev.lock").read_text().splitlines()
    constraints = environment.folder / "constraints.txt"
    constraints.write_text("\n".join(one for one in locked if not one.startswith(("-e", " "))))
    environment.install("-c", constraints, f"{source}[aiohttp]", *needed)


def run_suites(environment: OwnEnvironment, source: Path) -> Path:
    """Run the tests; return the account of them."""
    account = environment.folder / "account.xml"
    account.unlink(missing_ok=True)
    shutil.copy(Path(__file__).with_name("given_ids.py"), environment.folder)
    state = environment.folder / "emulator"
    shutil.rmtree(state, ignore_errors=True)
    options = {"manual": True, "any_model": True, "downloadable_files": True}
    with EmulatorProcess(state, **options) as emulator:
        # In one process: each test finds what `given_ids` made for it.
        how = ("-p", "given_ids", "-p", "no:cacheprovider", "-q", "-n", "0", "--tb=no")
        said = run(
            [environment.python, "-m", "pytest", *how, f"--junitxml={account}",
             *(f"tests/api_resources/{suite}" for suite in SUITES)],
            source,
            {
                "PYTHONPATH": str(environment.folder),
                "TEST_API_BASE_URL": emulator.base_url,
                "EMULATOR_DATABASE": str(state / "emulator.sqlite"),
            },
            may_fail=True,
        )  # fmt: skip
    if not account.is_file():
        raise ClientFailed(f"the tests did not run:\n{said[-3_000:]}")
    return account


def read_account(account: Path) -> tuple[int, int, dict[str, list[str]]]:
    """How many tests passed, how many the SDK itself passes over, and the errors of those that failed."""
    passed = skipped = 0
    failed: dict[str, list[str]] = defaultdict(list)
    for test in ElementTree.parse(account).iter("testcase"):
        error = test.find("failure")
        if error is None:
            error = test.find("error")
        if error is not None:
            module = test.get("classname", "").removeprefix("tests.api_resources.")
            file = module.rpartition(".Test")[0].replace(".", "/") + ".py"
            name = test.get("name", "").split("[")[0]
            failed[f"{file}::{name}"].append(error.get("message", "")[:500])
        elif test.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, skipped, failed


def try_python() -> list[str]:
    """Run the Python SDK's tests; return what is worse than the list has it."""
    wanted = version("anthropic")
    environment = OwnEnvironment(f"python-sdk-{wanted}")
    began = time.monotonic()
    source = fetch_source(environment, wanted)
    install(environment, source)
    installed = time.monotonic()
    passed, skipped, failed = read_account(run_suites(environment, source))
    count = sum(map(len, failed.values()))
    print(
        f"Python SDK {wanted}: {passed} passed, {count} cannot or did not, {skipped} it passes over "
        f"itself; installed in {installed - began:.0f} s, run in {time.monotonic() - installed:.0f} s",
        flush=True,
    )
    kept = kept_list()
    found = complaints(kept, wanted, passed, failed)
    if not found and passed > kept.passed:
        print(f"{passed} pass, {kept.passed} did before: the list has it now")
        keep_passed(passed)
    return found


def try_typescript() -> list[str]:
    """Look whether the TypeScript SDK's package has tests by now."""
    if shutil.which("npm") is None:
        print("TypeScript SDK: not looked at, there is no npm")
        return []
    said = run(["npm", "pack", TYPESCRIPT, "--dry-run", "--json", "--loglevel=error"], PLACE)
    [packed] = json.loads(said)
    tests = [file["path"] for file in packed["files"] if "test" in file["path"].lower()]
    print(
        f"TypeScript SDK {packed['version']}: {packed['entryCount']} files, {len(tests)} of tests"
    )
    if tests:
        return [f"the package of the TypeScript SDK has tests now, run them: {tests[:5]}"]
    return []


def main() -> int:
    """Run what there is; return the exit code."""
    PLACE.mkdir(exist_ok=True)
    try:
        found = try_python() + try_typescript()
    except ClientFailed as error:
        found = [str(error)]
    write_table("python_sdk", list_table())
    for one in found:
        print(f"FAILED: {one}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
