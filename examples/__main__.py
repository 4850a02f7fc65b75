"""`python -m examples NAME`: play an example on an emulator of its own, and show what came out."""

import sys
from pathlib import Path

from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.emulator.steering import EmulatorError
from examples.stage import EXAMPLES, Stage

PORT = 8797  # always the same: answers belong to the address that gave them


def main(names: list[str]) -> int:
    """Play one; return the exit code."""
    here = Path(__file__).parent
    if len(names) != 1 or names[0] not in EXAMPLES:
        print(f"Which one? make example NAME={'|'.join(EXAMPLES)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        _play(here / names[0])
    except EmulatorError as error:
        print(f"{error}\nIs another example being played?", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _play(folder: Path) -> None:
    data = folder / "data"
    with EmulatorProcess(data / "emulator", port=PORT) as emulator:
        stage = Stage(folder, emulator.base_url)
        before = emulator.bill()["requests"]
        stage.play()
        asked = emulator.bill()["requests"] - before
    where = f"{asked} requests were sent. Everything is kept in {data}."
    print(f"\n{where} Run it again: what is answered is not asked.")  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
