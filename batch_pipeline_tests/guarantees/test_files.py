"""Records that name files: what changes in a file is asked, and nothing else."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline_tests.guarantees.test_chains import night
from batch_pipeline_tests.requests.test_file_blocks import PHOTO, asking, png
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House


@pytest.fixture
def photos(house: House) -> Path:
    """Notes 0 to 39 that name photos, of which two are the same file."""
    folder = house.folder / "photos"
    folder.mkdir()
    house.sql(
        "alter table notes add column photo varchar",
        "update notes set photo = if(id = 39, 38, id) || '.png'",
    )
    for number in range(39):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def nights(house: House, photos: Path, **fields: Any):
    asks = {"prompt": None, "messages": asking(PHOTO), "files_root": str(photos)}
    return house.nights(asks, **fields)


def test_a_file_that_changed_is_asked_and_one_that_is_missing_when_it_comes(
    house: House, photos: Path
) -> None:
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(b"no picture\0")
    run = nights(house, photos)
    night(run)
    # The two that name one file are asked once.
    assert house.paid == 37
    assert house.statuses() == {"answered": 38, "rejected": 2}
    said = dict(house.sql("select id, _error from answers where _status = 'rejected'"))
    assert "0.png is not there" in said[0] and "1.png is of no kind that is known" in said[1]
    # Nothing changed: nothing is asked, and what cannot be sent is not tried again.
    for _ in range(2):
        run.submit()
        shown = run.metadata("records")
        assert (house.paid, shown["asked"], shown["settled"]) == (37, 0, 40)

    (photos / "0.png").write_bytes(png())
    (photos / "1.png").write_bytes(png())
    (photos / "2.png").write_bytes(png(200))
    os.utime(photos / "2.png", ns=(1, 1))
    night(run)
    assert run.metadata("records")["asked"] == 3
    assert house.paid == 40 and house.statuses() == {"answered": 40}
    photos.rename(photos.with_name("away"))
    assert "(files_root) is not there" in house.refusal(run)
    photos.with_name("away").rename(photos)
    run.submit()
    assert house.paid == 40


@only_whole
def test_a_folder_that_is_not_there_stops_before_anything_changes(
    house: House, photos: Path
) -> None:
    run = nights(house, photos)
    night(run, limit=2)
    away = photos.with_name("away")
    photos.rename(away)
    assert "(files_root) is not there" in house.refusal(run)
    # A mount point that is empty looks like files that are gone: most of a table again.
    photos.mkdir()
    night(run, limit=0)
    away_again = house.statuses()
    assert away_again == {"answered": 2} and house.paid == 2


@only_whole
def test_an_empty_mount_point_and_copied_files_are_most_of_a_table_again(
    house: House, photos: Path
) -> None:
    run = nights(house, photos, dedupe=False)
    night(run)
    paid = house.paid
    away = photos.with_name("away")
    photos.rename(away)
    photos.mkdir()
    assert "would be asked, and paid, again" in house.refusal(run)
    photos.rmdir()
    # In a new place with their times they are the same files; with other times nobody knows.
    shutil.copytree(away, photos)
    night(run)
    assert house.paid == paid
    for file in photos.iterdir():
        os.utime(file, ns=(1, 1))
    assert "would be asked, and paid, again" in house.refusal(run)
    assert house.paid == paid and house.statuses() == {"answered": 40}
