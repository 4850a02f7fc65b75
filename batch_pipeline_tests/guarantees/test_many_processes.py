"""Eight processes at once, on each of the databases; see ``support.many_processes``."""

from pathlib import Path

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.many_processes import eight_processes
from batch_pipeline_tests.support.postgres import Schemas


def test_eight_processes_at_once_ask_each_record_once(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    print(eight_processes(tmp_path, claude_emulator, None, table=True))


@only_whole
def test_eight_processes_at_once_ask_each_record_once_with_postgresql(
    claude_emulator: EmulatorProcess, tmp_path: Path, schemas: Schemas
) -> None:
    with schemas.some(1) as [ledger]:
        print(eight_processes(tmp_path, claude_emulator, ledger, table=False))
