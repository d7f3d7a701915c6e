"""Scouts and other series of a study as second images: an archive of ellipsoids, preprocessed.

The scouts are projections of the ellipsoids by the formula of a chord, at other spacings and
positions than the slices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tests.support.ellipsoid_scans import BODY, ORIGIN_MM, Ellipsoid, write_localizer, write_scan
from voco_data.erasure import forget_patient
from voco_data.errors import InputError
from voco_data.ingest import IngestOptions, preprocess
from voco_data.paired_images import PairSummary, make_pairs, read_paired_images
from voco_data.paired_images.map_area import COLUMN_AXES, Plane
from voco_data.store import Store

SCANS: dict[str, dict[str, Any]] = {
    "a": {},
    # The same body 40 mm lower on the detector, in a phase in which the left organ is brighter.
    "b": {
        "bodies": (BODY[0], Ellipsoid((70, -20, -150), (35, 30, 40), 320), BODY[2]),
        "origin_mm": (ORIGIN_MM[0], ORIGIN_MM[1], ORIGIN_MM[2] - 40),
        "AcquisitionNumber": 2,
    },
    "moved": {
        "origin_mm": (ORIGIN_MM[0], ORIGIN_MM[1], ORIGIN_MM[2] - 15),
        "FrameOfReferenceUID": "1.2.9",
        "AcquisitionNumber": 3,
    },
    "alone": {"StudyInstanceUID": "1.7", "FrameOfReferenceUID": "1.7.1"},
    "blind": {"StudyInstanceUID": "1.8", "FrameOfReferenceUID": ""},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number, (name, changes) in enumerate(SCANS.items()):
        options = {"PatientID": "patient-7" if number < 3 else name} | changes
        write_scan(folder / name, **options)
    scouts = folder / "scouts"
    write_localizer(scouts / "narrow.dcm", first_mm=(-40.0, -60.0), shape=(200, 200))
    write_localizer(scouts / "wide.dcm")
    write_localizer(scouts / "side.dcm", "sagittal", first_mm=(-60.0, -150.0), shape=(120, 320))
    write_localizer(scouts / "no-place.dcm", ImagePositionPatient=None)
    write_localizer(scouts / "axial.dcm", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    write_localizer(scouts / "cut.dcm", Rows=None)
    other = {"StudyInstanceUID": "1.7", "FrameOfReferenceUID": "1.7.2", "PatientID": "alone"}
    write_localizer(scouts / "other-frame.dcm", **other)
    return folder


@pytest.fixture(scope="module")
def store(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("root")
    summary = preprocess(archive, root, IngestOptions(specs=("localise",), workers=1))
    stored = Store.open(summary.stores["localise"])
    assert len(stored) == len(SCANS)
    return stored


@pytest.fixture(scope="module")
def row_of(store: Store) -> Mapping[str, int]:
    """The rows of the scans of one study, by their lower ends: ids are pseudonyms."""
    lines = store.catalogue.set_index("row")
    (three,) = [rows for _, rows in lines.groupby("study_uid").groups.items() if len(rows) == 3]
    low = {"a": -302.5, "b": -342.5, "moved": -317.5}
    by_low = {float(lines.loc[row, "box_z_low_mm"]): int(row) for row in three}
    return {name: by_low[z_mm] for name, z_mm in low.items()}


def make(archive: Path, store: Store, out: Path, kind: Any) -> PairSummary:
    return make_pairs(archive, store.path, out, kind=kind)


def scaled(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    low, high = np.percentile(values[valid], [1, 99])
    return np.asarray(np.clip((values - low) / (high - low), 0, 1))


@pytest.fixture(scope="module")
def localizers(
    archive: Path, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PairSummary]:
    out = tmp_path_factory.mktemp("pairs") / "localizers"
    return out, make(archive, store, out, "localizer")


def test_what_is_left_out_is_counted(localizers: tuple[Path, PairSummary], store: Store) -> None:
    out, summary = localizers
    assert (summary.series, summary.paired) == (5, 2)
    assert (summary.coronal, summary.sagittal) == (2, 2)
    assert summary.left_out == {
        "no frame of reference": 1,
        "only localizers of another frame of reference": 2,
        "localizers without position, orientation or spacing": 1,
        "localizers that are axial or oblique": 1,
        "localizers that cannot be read": 1,
    }
    assert json.loads((out / "pairs.json").read_text())["paired"] == 2
    table = pd.read_csv(out / "images.csv")
    assert set(table["series_uid"]) < set(store.catalogue["series_uid"])
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {"pairs.json", "images.csv", *table["path"], *table["mask"].dropna()}


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_a_localizer_agrees_with_the_mean_of_the_volume(
    localizers: tuple[Path, PairSummary], store: Store, row_of: Mapping[str, int], plane: Plane
) -> None:
    """Both are sums of the same body along the axis. A mirrored or shifted map differs more."""
    found = read_paired_images(localizers[0], [store], [(0, row_of["a"])])
    assert found.kinds == {"localizer": 2}
    image, valid = found.values[plane][0, 0], found.is_valid[plane][0, 0]
    mean = store.read(row_of["a"]).astype(float).mean(axis=3 - COLUMN_AXES[plane])
    expected = scaled(mean, valid)

    def error(shown: npt.NDArray[Any]) -> float:
        return float(np.abs(shown - expected)[valid].mean())

    assert error(image) < 0.02
    assert error(image[:, ::-1]) > 1.5 * error(image)
    assert error(image[::-1]) > 1.5 * error(image)
    for axis in (0, 1):
        for step in (-3, 3):
            assert error(np.roll(image, step, axis)) > 1.5 * error(image)


def test_left_and_right_are_not_exchanged(
    localizers: tuple[Path, PairSummary], store: Store, row_of: Mapping[str, int]
) -> None:
    """In the file of a viewer, the upper organ, on the patient's left, is in the right half."""
    table = pd.read_csv(localizers[0] / "images.csv")
    uid = store.catalogue.set_index("row").loc[row_of["a"], "series_uid"]
    (path,) = table[(table["plane"] == "coronal") & (table["series_uid"] == uid)]["path"]
    shown = np.load(localizers[0] / path)
    line = store.catalogue.set_index("row").loc[row_of["a"]]
    z_mm = np.linspace(line["box_z_high_mm"], line["box_z_low_mm"], 2 * len(shown) + 1)[1::2]
    x_mm = np.linspace(line["box_x_low_mm"], line["box_x_high_mm"], 2 * shown.shape[1] + 1)[1::2]
    brighter = shown - shown[:, ::-1]
    for organ in BODY[1:]:
        rows = np.flatnonzero(np.abs(z_mm - organ.centre_mm[2]) < 35)
        row, column = np.unravel_index(brighter[rows].argmax(), brighter[rows].shape)
        assert x_mm[column] == pytest.approx(organ.centre_mm[0], abs=12)
        assert z_mm[rows[row]] == pytest.approx(organ.centre_mm[2], abs=12)


def test_what_a_localizer_does_not_cover_is_masked(
    localizers: tuple[Path, PairSummary], store: Store
) -> None:
    """The scout from the side ends at z -59.25 above and at -239.25 below."""
    positions = [(0, row) for row in store.rows.tolist()]
    valid = read_paired_images(localizers[0], [store], positions).is_valid["sagittal"][:, 0]
    lines = store.catalogue.set_index("row")
    n_partial = 0
    for index, (_, row) in enumerate(positions):
        if not valid[index].any():
            continue
        low, high = lines.loc[row, ["box_z_low_mm", "box_z_high_mm"]]
        edges = np.linspace(low, high, store.grid[0] + 1)
        expected = (edges[:-1] >= -239.25 - 1e-6) & (edges[1:] <= -59.25 + 1e-6)
        np.testing.assert_array_equal(valid[index], np.repeat(expected[:, None], 64, axis=1))
        n_partial += not expected.all()
    assert n_partial == 2


def test_the_localizer_that_covers_most_is_taken(
    localizers: tuple[Path, PairSummary], store: Store, row_of: Mapping[str, int]
) -> None:
    """`wide` covers all columns, `narrow`, which comes first, does not."""
    positions = [(0, row_of["a"]), (0, row_of["b"])]
    valid = read_paired_images(localizers[0], [store], positions).is_valid["coronal"]
    assert [bool(image[0].any(axis=0).all()) for image in valid] == [True, True]


def test_a_shifted_header_shifts_the_image(
    archive: Path, store: Store, row_of: Mapping[str, int], tmp_path: Path
) -> None:
    """The same scout with a position 20 mm lower and 30 mm to the left."""
    shifted = tmp_path / "archive"
    for name in ("a", "b"):
        (shifted / name).mkdir(parents=True)
        for file in (archive / name).iterdir():
            (shifted / name / file.name).hardlink_to(file)
    write_localizer(shifted / "scout.dcm", shift_mm=(-20.0, 30.0))
    summary = make(shifted, store, tmp_path / "pairs", "localizer")
    assert summary.paired == 2
    assert summary.left_out == {"not in the archive": 3}
    found = read_paired_images(tmp_path / "pairs", [store], [(0, row_of["a"])])
    line = store.catalogue.set_index("row").loc[row_of["a"]]
    down = round(20 / (line["box_z_high_mm"] - line["box_z_low_mm"]) * store.grid[0])
    left = round(30 / (line["box_x_high_mm"] - line["box_x_low_mm"]) * store.grid[2])
    mean = store.read(row_of["a"]).astype(float).mean(axis=1)
    got, valid = found.values["coronal"][0, 0], found.is_valid["coronal"][0, 0]
    both = valid.copy()
    both[-down:], both[:, :left] = False, False
    expected = np.roll(mean, (-down, left), (0, 1))
    assert np.corrcoef(got[both], expected[both])[0, 1] > 0.995
    assert np.corrcoef(got[both], mean[both])[0, 1] < 0.95


def test_another_series_of_the_study_is_projected(
    archive: Path, store: Store, row_of: Mapping[str, int], tmp_path: Path
) -> None:
    """`a` shows what `b` shows, where both are, and the other way round; `b` lies 40 mm lower."""
    summary = make(archive, store, tmp_path / "pairs", "phase")
    assert (summary.paired, summary.coronal, summary.sagittal) == (2, 2, 2)
    assert summary.left_out == {
        "no frame of reference": 1,
        "no other series in its study": 1,
        "only other series of another frame of reference": 1,
    }
    found = read_paired_images(tmp_path / "pairs", [store], [(0, row_of["a"])])
    assert found.kinds == {"phase": 2}
    lines = store.catalogue.set_index("row")
    a, b = lines.loc[row_of["a"]], lines.loc[row_of["b"]]
    valid = found.is_valid["coronal"][0, 0]
    edges = np.linspace(a["box_z_low_mm"], a["box_z_high_mm"], store.grid[0] + 1)
    expected = (edges[:-1] >= b["box_z_low_mm"] - 1e-6) & (edges[1:] <= b["box_z_high_mm"] + 1e-6)
    assert 0 < expected.sum() < store.grid[0]
    np.testing.assert_array_equal(valid.all(axis=1), expected)
    own = store.read(row_of["a"]).astype(float).mean(axis=1) / 255
    other = found.values["coronal"][0, 0]
    brighter = np.where(valid, other - own, 0)
    row, column = np.unravel_index(brighter.argmax(), brighter.shape)
    assert (edges[row] + edges[row + 1]) / 2 == pytest.approx(-150, abs=12)  # the organ of `b`
    x_mm = np.linspace(a["box_x_low_mm"], a["box_x_high_mm"], store.grid[2] + 1)
    assert (x_mm[column] + x_mm[column + 1]) / 2 == pytest.approx(70, abs=12)
    assert brighter.max() > 0.04
    away = valid & (np.abs((edges[:-1] + edges[1:]) / 2 + 150) > 50)[:, None]
    assert np.abs(brighter[away]).mean() < 0.01


def test_folders_that_are_not_empty_are_refused(
    archive: Path, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder as --out"):
        make(archive, store, tmp_path, "phase")
    with pytest.raises(InputError, match="no such file or folder; give the folder of the CT"):
        make(archive / "none", store, tmp_path / "out", "phase")
    assert not (tmp_path / "out").exists()


def test_forget_lists_a_folder_of_pairs_under_the_root(
    archive: Path, store: Store, row_of: Mapping[str, int]
) -> None:
    root = store.path.parent
    make(archive, store, root / "pairs", "phase")
    lines = store.catalogue.set_index("row")["patient_id"]
    named = forget_patient(root, str(lines[row_of["a"]]))
    assert "pairs/images.csv" in named.left
    alone = set(lines) - {lines[row_of["a"]]}
    assert "pairs/images.csv" not in forget_patient(root, str(min(alone))).left
