"""The command `batch-pipeline skill`: what a coding agent must know, as a skill folder."""

from importlib.resources import files
from pathlib import Path

import click

from batch_pipeline.cli.output import RefusedError, errors_shown

FOLDER = ".claude/skills"
NAME = "batch-pipeline"
FILE = "SKILL.md"


def skill_text() -> str:
    """Return the skill, as it lies in the package."""
    return (files("batch_pipeline.cli") / "skills" / FILE).read_text(encoding="utf-8")


@click.command()
@click.option(
    "--install",
    "folder",
    metavar="[DIR]",
    is_flag=False,
    flag_value=FOLDER,
    help=f"Write {NAME}/{FILE} into this folder of skills ({FOLDER}).",
)
@errors_shown
def skill(folder: str | None) -> None:
    """Show what a coding agent must know about this package, or install it as a skill."""
    text = skill_text()
    if folder is None:
        click.echo(text, nl=False)
        return
    target = Path(folder).expanduser() / NAME / FILE
    try:
        if target.exists() and f"\nname: {NAME}\n" not in target.read_text(encoding="utf-8"):
            raise RefusedError(
                f"{target} is not this package's, so it was left as it is. Name another folder: --install DIR."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"The skill could not be written to {target}: {error}") from error
    click.echo(f"Written: {target}")
