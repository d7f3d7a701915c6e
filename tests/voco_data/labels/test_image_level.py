"""The table of labels of single images."""

from __future__ import annotations

from pathlib import Path

import pytest

from voco_data.errors import InputError
from voco_data.labels.image_level import read_image_labels
from voco_data.phantom.ratic import IMAGE_LEVEL_NAMES

HEAD = "patient_id,series_id,instance_number,injury_name\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "image_level_labels.csv"
    path.write_text(text)
    return path


def test_numbers_by_series_and_group(tmp_path: Path) -> None:
    rows = "1,10,5,Bowel\n1,10,6,Bowel\n1,10,6,Active_Extravasation\n2,020,7,Bowel\n"
    assert read_image_labels(write(tmp_path, HEAD + rows)) == {
        "10": {"bowel": {5, 6}, "extravasation": {6}},
        "020": {"bowel": {7}},
    }
    assert read_image_labels(write(tmp_path, HEAD)) == {}


def test_names_are_those_that_the_made_up_archive_writes(tmp_path: Path) -> None:
    for group, name in IMAGE_LEVEL_NAMES.items():
        assert read_image_labels(write(tmp_path, f"{HEAD}1,2,3,{name}\n")) == {"2": {group: {3}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("series_id,injury_name\n", "missing: instance_number"),
        (HEAD + "1,2,3,Brain\n", "got 'Brain'"),
        (HEAD + "1,2,3.5,Bowel\n", "got '3.5'"),
        ("", r"image labels .*: expected a table"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image_labels(write(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        read_image_labels(tmp_path / "missing.csv")
