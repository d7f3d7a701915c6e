"""Folders and tables of images, and which series of a store they are of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.paired_images import read_paired_images
from voco_data.store import Store

GRID = (16, 20, 24)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(3, GRID))


def write(path: Path, value: float, shape: tuple[int, int] = (16, 24)) -> None:
    """An image of one value, with a brighter first row: the uppermost."""
    values = np.full(shape, value, np.float32)
    values[0] = 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def read(source: Path, store: Store, rows: Any = (0, 1, 2)) -> Any:
    return read_paired_images(source, [store], [(0, row) for row in rows])


def test_a_folder_of_series(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "series-000" / "coronal.npy", 0.25)
    write(tmp_path / "series-000" / "sagittal.npy", 0.5, (16, 20))
    write(tmp_path / "series-002" / "coronal.npy", 0.75)
    np.save(tmp_path / "series-002" / "coronal_mask.npy", np.arange(24) < np.full((16, 1), 10))
    write(tmp_path / "elsewhere" / "coronal.npy", 0.5)
    (tmp_path / "series-000" / "notes.txt").write_text("not an image")
    found = read(tmp_path, store, (2, 1, 0))
    assert found.unknown == 1
    assert found.kinds == {"given": 3}
    assert found.values["coronal"].shape == (3, 1, 16, 24)
    assert found.values["sagittal"].shape == (3, 1, 16, 20)
    assert found.has_image["coronal"].tolist() == [True, False, True]
    assert found.has_image["sagittal"].tolist() == [False, False, True]
    assert np.unique(found.values["coronal"][2, 0, :15]).tolist() == [0.25]
    assert np.unique(found.values["coronal"][2, 0, 15]).tolist() == [1.0]  # z grows upwards
    assert found.is_valid["coronal"][0, 0].sum() == 16 * 10
    assert np.unique(found.values["coronal"][0, 0, :15, :10]).tolist() == [0.75]
    assert not found.values["coronal"][0, 0, :, 10:].any()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_with_paths_beside_it(store: Store, tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "images" / "a.npy", 0.25)
    write(tmp_path / "images" / "b.npy", 0.5, (16, 20))
    np.save(tmp_path / "images" / "m.npy", np.ones((16, 24), bool))
    table = pd.DataFrame(
        {
            "series_uid": ["series-001", "series-001"],
            "plane": ["coronal", "sagittal"],
            "path": ["images/a.npy", "images/b.npy"],
            "mask": ["images/m.npy", None],
            "kind": ["localizer", None],
        }
    )
    path = tmp_path / f"table{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    found = read(path, store)
    assert found.has_image["coronal"].tolist() == [False, True, False]
    assert found.has_image["sagittal"].tolist() == [False, True, False]
    assert found.kinds == {"given": 1, "localizer": 1}


def test_an_image_of_another_version_of_its_volume_is_refused(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "a.npy", 0.25)
    checksums = store.catalogue.set_index("series_uid")["chunk_checksum"]
    for checksum, is_right in ((checksums["series-001"], True), (checksums["series-000"], False)):
        (tmp_path / "images.csv").write_text(
            f"series_uid,plane,path,volume_checksum\nseries-001,coronal,a.npy,{checksum}\n"
        )
        if is_right:
            assert read(tmp_path, store).has_image["coronal"].sum() == 1
        else:
            with pytest.raises(InputError, match=r"made for another volume .*; run voco pairs"):
                read(tmp_path, store)


def test_an_id_of_two_series_is_refused(tmp_path: Path) -> None:
    twins = make_store(
        tmp_path / "stores",
        random_volumes(3, GRID),
        change=lambda record: dataclasses.replace(record, series_uid="one"),
    )
    write(tmp_path / "images" / "one" / "coronal.npy", 0.25)
    with pytest.raises(InputError, match="3 series of one store have the id one"):
        read(tmp_path / "images", twins)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, r"no image; expected <series id>/coronal\.png"),
        ({"a/coronal.npy": 0}, "none of its 1 images is of a series of the stores"),
        ({"series-000/Coronal.npy": 0}, r"Coronal\.npy: expected the name coronal or sagittal"),
        ({"series-000/coronal_mask.npy": 0}, "a mask without its image"),
        (
            {"series-000/coronal.npy": 0, "series-000/coronal.png": 0},
            "a second coronal image of series series-000; give one",
        ),
        ({"series-000/sagittal.npy": 0}, r"sagittal\.npy: expected an image of the series' box"),
        ({"images.csv": "series_uid,path\n"}, "no plane"),
        ({"images.csv": "series_uid,plane,path\n"}, "no image"),
        ({"images.csv": "series_uid,plane,path\na,axial,b"}, "row 1: expected the plane coronal"),
        ({"images.csv": "series_uid,plane,path\na,coronal,"}, "row 1: expected a series_uid and a"),
        (
            {"images.csv": "series_uid,plane,path\na,coronal,b\na,coronal,c"},
            "row 2: a second coronal image of series a",
        ),
        (
            {"images.csv": "series_uid,plane,path\nseries-000,coronal,b.npy"},
            r"b\.npy: no such file",
        ),
    ],
)
def test_what_names_no_image_is_one_line(
    store: Store, tmp_path: Path, files: dict[str, Any], match: str
) -> None:
    for name, content in files.items():
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            write(tmp_path / name, content)
            if name.endswith(".png"):
                Path(f"{tmp_path / name}.npy").rename(tmp_path / name)
    with pytest.raises(InputError, match=match) as caught:
        read(tmp_path, store)
    assert str(caught.value).startswith("images ")
    assert "\n" not in str(caught.value)


def test_a_source_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of images or a table, got nothing"):
        read(tmp_path / "none", store)
    (tmp_path / "table.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="expected a table in CSV"):
        read(tmp_path / "table.parquet", store)
