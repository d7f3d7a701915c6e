"""Every change of a store's format has a note, and what another version made gives one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import voco_data
from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_data.store.spec import ALGORITHM_VERSION, FORMAT


def noted(change: str) -> set[int]:
    """Numbers that have a row in the table of migrations."""
    text = (Path(voco_data.__file__).parent / "STORE.md").read_text().split("## Migrations")[1]
    return {int(n) for n in re.findall(rf"^\| {change} (\d+) \| \S.* \| \S.* \|$", text, re.M)}


def test_every_number_so_far_has_a_note() -> None:
    assert noted("format") == set(range(1, FORMAT + 1))
    assert noted("algorithm_version") == set(range(1, ALGORITHM_VERSION + 1))


def edited(tmp_path: Path, change: str) -> Path:
    path = make_store(tmp_path, random_volumes(1, (2, 8, 8))).path
    metadata = json.loads((path / "zarr.json").read_text())
    ours = metadata["attributes"]["voco"]
    if change == "format":
        ours["format"] = FORMAT + 1
    elif change == "no format":
        del ours["format"]
    elif change == "newer spec":
        ours["spec"]["something_new"] = 1
    else:
        del ours["spec"]["axis_tolerance_deg"]
    (path / "zarr.json").write_text(json.dumps(metadata))
    return path


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ("format", f"format {FORMAT + 1}, expected {FORMAT}"),
        ("no format", "format None"),
        ("newer spec", "something_new"),
        ("older spec", "axis_tolerance_deg"),
    ],
)
def test_what_another_version_made_is_one_line(
    tmp_path: Path, change: str, about: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(tmp_path, change)
    with pytest.raises(InputError, match=about) as caught:
        Store.open(path)
    assert str(path) in str(caught.value)
    assert "Migrations" in str(caught.value)
    assert main(["store", "info", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_catalogue_of_an_older_version_names_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    path = make_store(tmp_path, random_volumes(1, (2, 8, 8))).path
    file = path / "volumes" / "catalogue.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["z_low_mm"]), file)
    assert main(["store", "info", str(path)]) == 1
    assert "lacks the columns ['z_low_mm']" in capsys.readouterr().err
