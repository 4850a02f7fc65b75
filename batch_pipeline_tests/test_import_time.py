"""What is loaded before it is needed: every run, step and command pays for it.

Measured on 2026-11-26 with two cores, CPU time and memory: bare ``import dagster`` 0.45 s and 65 MB; the
demo's code location 0.5 s and 73 MB (2.3 s and 237 MB while it loaded all of these).
"""

import subprocess
import sys

import pytest

HEAVY = ("anthropic", "duckdb", "pandas", "pyarrow", "sqlalchemy")
FRAMEWORK = (*HEAVY, "dagster")


@pytest.mark.parametrize(
    ("code", "not_loaded"),
    [
        ("import batch_pipeline", FRAMEWORK),
        ("import batch_pipeline.emulator", FRAMEWORK),
        ("import batch_pipeline.cli.main", FRAMEWORK),
        ("from batch_pipeline.cli.main import main; main(['--help'], standalone_mode=False)", FRAMEWORK),
        ("from batch_pipeline import *", HEAVY),
        ("import batch_pipeline.demo.definitions as demo; demo.defs.get_repository_def()", HEAVY),
    ],
)  # fmt: skip
def test_nothing_heavy_is_loaded_before_it_is_needed(
    code: str, not_loaded: tuple[str, ...]
) -> None:
    report = f"{code}\nimport sys\nprint('loaded:', *({set(not_loaded)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_what_does_the_work_is_loaded_by_whoever_calls_it() -> None:
    code = (
        "import sys; from batch_pipeline import ParquetDataset;"
        "ParquetDataset(path='nowhere').exists(); print('duckdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
