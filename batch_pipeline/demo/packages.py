"""Packages: Parquet in, Parquet out, and an answer that can be compared with the truth.

The records are 2,000 packages of Debian 12, taken from the archive's public package index: the
names, sections and descriptions that Debian's maintainers wrote, free to use and share under each
package's own (DFSG-free) licence.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from batch_pipeline import (
    Arrivals,
    BatchPipeline,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    Schedule,
)
from batch_pipeline.demo.places import Places
from batch_pipeline.demo.sections import SECTIONS

PACKAGES = Path(__file__).with_name("debian_packages.parquet")
GUIDE = """\
You sort packages into the sections of the Debian archive. You get the name of a binary package,
its one-line summary and the beginning of its description. Answer with the section in which a
Debian maintainer would look for it first.

The name often decides: a prefix or an ending that a language or a kind of package uses weighs
more than the words of the description. The sections, and words that speak for each:
{sections}
""".format(sections="\n".join(f"{name}: {words}" for name, words in SECTIONS.items()))
QUESTION = """\
Name: {{ package }}
Summary: {{ summary }}
Description: {{ description[:300] }}"""
ANSWER = {
    "type": "object",
    "properties": {"predicted_section": {"type": "string", "enum": list(SECTIONS)}},
    "required": ["predicted_section"],
    "additionalProperties": False,
}


class SectionAccuracy(NamedTuple):
    """How often the packages of one section were sorted right."""

    section: str
    packages: int
    right: int

    @property
    def share(self) -> float:
        """Right answers, 0 to 1."""
        return self.right / self.packages if self.packages else 0.0


def packages_pipeline(places: Places) -> BatchPipeline:
    """Return the pipeline: into which section each package belongs."""
    return BatchPipeline(
        name="packages",
        source=ParquetSource(path=places.packages, key="package"),
        request=MessageTemplate(
            model="claude-sonnet-5",
            max_tokens=64,
            system=GUIDE,
            prompt=QUESTION,
            output=ANSWER,
            cache="1h",
            # This model thinks unasked, and thinking is paid as output: a word needs none.
            params={"thinking": {"type": "disabled"}},
        ),
        destination=ParquetDataset(path=places.sections),
        schedule=Schedule("30 23 * * *", status=dg.DefaultScheduleStatus.RUNNING),
        # A further file in the folder is asked about a minute after it came.
        arrivals=Arrivals(cooldown_minutes=1, status=dg.DefaultSensorStatus.RUNNING),
        upstream=[dg.AssetKey(["packages", "incoming"])],
    )


def write_packages(folder: str) -> int:
    """Put the packages' file into the folder they are read from, unless it is there; return its rows."""
    file = Path(folder, PACKAGES.name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole: a sensor looks at the folder.
        unfinished = file.with_suffix(".unfinished")
        shutil.copyfile(PACKAGES, unfinished)
        unfinished.rename(file)
    import duckdb

    with duckdb.connect() as connection:
        (rows,) = connection.execute("select count(*) from read_parquet(?)", [str(file)]).fetchall()
    return rows[0]


def incoming_packages_asset(places: Places) -> dg.AssetsDefinition:
    """Return the asset that stands for what puts files into the folder in a real project."""

    @dg.asset(
        key=["packages", "incoming"],
        group_name="packages",
        kinds={"parquet"},
        description="The packages of Debian 12, as a Parquet file. Drop further files beside it.",
    )
    def incoming() -> dg.MaterializeResult:
        return dg.MaterializeResult(
            metadata={"dagster/row_count": write_packages(places["packages"])}
        )

    return incoming


def accuracy_of(places: Places) -> list[SectionAccuracy]:
    """Compare the answers with Debian's own sections, the largest sections first."""
    files = ParquetDataset(path=places.sections).files()
    if not files:
        return []
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute(
            "select section, count(*), count(*) filter (predicted_section = section) "
            "from read_parquet(?) where _status = 'answered' group by all order by 2 desc, 1",
            [files],
        ).fetchall()
    return [SectionAccuracy(*row) for row in rows]


def overall(sections: Sequence[SectionAccuracy]) -> SectionAccuracy:
    """Return the accuracy over all sections."""
    return SectionAccuracy(
        "all", sum(one.packages for one in sections), sum(one.right for one in sections)
    )


def accuracy_asset(places: Places) -> dg.AssetsDefinition:
    """Return the downstream asset, which runs by itself whenever the results have changed."""

    @dg.asset(
        key=["packages", "accuracy"],
        deps=[dg.AssetKey(["packages", "results"])],
        group_name="packages",
        kinds={"duckdb"},
        automation_condition=dg.AutomationCondition.eager(),
        description="How often the answer is the section in which Debian really has the package.",
    )
    def accuracy() -> dg.MaterializeResult:
        sections = accuracy_of(places)
        total = overall(sections)
        return dg.MaterializeResult(
            metadata={
                "accuracy": total.share,
                "packages": total.packages,
                "right": total.right,
                "by_section": dg.MetadataValue.table(
                    [
                        dg.TableRecord(
                            {
                                "section": one.section,
                                "packages": one.packages,
                                "right": one.right,
                                "accuracy": round(one.share, 3),
                            }
                        )
                        for one in sections
                    ]
                ),
            }
        )

    return accuracy
