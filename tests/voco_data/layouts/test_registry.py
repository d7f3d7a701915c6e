"""A layout is one object in one tuple: recognition, `--layout` and hidden names go by it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from flows.command_options import build_parser
from voco_data.cohort import OddFile
from voco_data.errors import InputError
from voco_data.layouts import registry
from voco_data.layouts.base import Advance, Layout
from voco_data.layouts.index import index_archive
from voco_data.layouts.table import IndexTable
from voco_data.reasons import Reason


def is_toy(path: str) -> bool:
    return path.endswith(".toy.nii")


def index_toy(base: Path, table: IndexTable, advance: Advance) -> str:
    for number, path in table.files():
        advance()
        if is_toy(path):
            table.add_slice(number, table.add_series("nifti", patient=path[0], uid=path[:-8]))
        else:
            table.add_odd_file(OddFile(path, Reason.NOT_MEDICAL, f"no toy of {base.name}"))
    table.set_file_ranges()
    return "toy"


TOY = Layout(
    name="toy",
    title="Toys",
    index=index_toy,
    signs=(is_toy,),
    top_files=("toys.csv",),
    is_own_file=is_toy,
    public_ids=True,
)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An archive of a layout that is in the tuple, and nowhere else."""
    monkeypatch.setattr(registry, "LAYOUTS", (*registry.LAYOUTS, TOY))
    for name in ("a1.toy.nii", "b2.toy.nii", "toys.csv"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_an_archive_of_a_new_layout_is_recognised(toys: Path) -> None:
    with index_archive(toys) as cohort:
        assert (cohort.layout, cohort.public_ids) == ("toy", True)
        found = [(head.patient_id, head.series_uid, head.source) for head in cohort.heads()]
        assert found == [("a", "a1", "a1.toy.nii"), ("b", "b2", "b2.toy.nii")]
        assert [file.path for file in cohort.odd_files()] == ["(another file 1).csv"]


def test_other_images_among_those_of_a_new_layout_hide_its_ids(
    toys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (toys / "jane_doe.nii.gz").write_bytes(b"")
    with caplog.at_level(logging.WARNING), index_archive(toys) as cohort:
        assert not cohort.public_ids
    assert "other files lie among those of Toys" in caplog.text
    with index_archive(toys, layout="toy") as cohort:
        assert cohort.public_ids
        assert sorted(file.path for file in cohort.odd_files()) == [
            "(another file 1).nii.gz",
            "(another file 2).csv",
        ]


def test_a_new_layout_is_a_choice_of_the_command(toys: Path) -> None:
    words = ["preprocess", str(toys), "--root", "r", "--layout", "toy"]
    assert build_parser().parse_args(words).layout == "toy"


@pytest.mark.usefixtures("toys")
def test_an_unknown_layout_is_answered_with_all_of_them(tmp_path: Path) -> None:
    names = "auto, ratic, flare, nnunet, decathlon, totalsegmentator, dicom, nifti, toy"
    expected = f"layout must be one of {names}, got 'toys'"
    with pytest.raises(InputError, match=expected), index_archive(tmp_path, layout="toys"):
        pass


def test_names_are_unique_and_not_that_of_recognition() -> None:
    assert registry.layout_choices() == (
        "auto",
        "ratic",
        "flare",
        "nnunet",
        "decathlon",
        "totalsegmentator",
        "dicom",
        "nifti",
    )


def test_the_registry_is_light() -> None:
    """The command line lists the layouts, and starts at once."""
    code = "import sys, voco_data.layouts.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"numpy", "pandas", "pyarrow", "pydicom", "sqlite3", "tqdm", "xxhash"}
