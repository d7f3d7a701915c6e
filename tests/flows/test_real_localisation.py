"""Real scans with organ masks: boxes are scored as docs/projection.md says, with no training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from flows.command import main
from tests.support.ct_learning import ct_learning_folder
from tests.support.project import PROJECT
from voco_data.store import Store
from voco_models.localisation.boxes import OrganBox
from voco_models.stages import localisation

pytestmark = [pytest.mark.real_ct, pytest.mark.xdist_group("real ct")]

LABELS = {"spleen": [1], "kidney_right": [2], "kidney_left": [3], "liver": [5]}
TINY = (
    "network=unet_2d",
    "widths=[2,2,4,4,4]",
    "batch_size=1",
    "fit.total_steps=1",
    "fit.warmup_steps=0",
)


@pytest.fixture(scope="module")
def label_maps(real_ct: Path) -> dict[str, Path]:
    """By patient; `ct` is the only NIfTI file of its archive."""
    return {
        "chest": ct_learning_folder(real_ct) / "019_mask_liver-spleen-kidneys-and-others.nii.gz",
        "ct": real_ct / "03_totalseg_nifti" / "example_seg.nii.gz",
        "dicom/ct": real_ct / "03_totalseg_nifti" / "example_seg_dicom.nii.gz",
    }


@pytest.fixture(scope="module")
def root(
    real_ct: Path, label_maps: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two archives, each with its stores: `one` has a scan, `two` has two."""
    folder = tmp_path_factory.mktemp("real")
    learning = ct_learning_folder(real_ct)
    (block,) = [
        code
        for code in re.findall(
            r"```python\n(.*?)```", (PROJECT / "docs/projection.md").read_text(), re.DOTALL
        )
        if "write_organ_masks" in code
    ]
    names: dict[str, Any] = {}
    exec(block, names)
    places = {"chest": "one/chest", "ct": "two/nifti", "dicom/ct": "two/dicom"}
    for name, place in places.items():
        names["write_organ_masks"](label_maps[name], folder / place)
    shutil.copy(learning / "019_LIDC-IDRI_0001.nii.gz", folder / "one/chest/ct.nii.gz")
    shutil.copy(real_ct / "03_totalseg_nifti/example_ct_sm.nii.gz", folder / "two/nifti/ct.nii.gz")
    shutil.copytree(real_ct / "02_totalseg_siemens_j2k_abdomen", folder / "two/dicom/ct")
    for name in ("one", "two"):
        words = ["preprocess", folder / name, "--root", folder / f"stores-{name}"]
        call(*words, "--spec", "localise", "--keep-ids", "--workers", "1")
    return folder


def call(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def store_of(root: Path, name: str) -> Path:
    (store,) = (root / f"stores-{name}").glob("localise-*.zarr")
    return store


def find_true_boxes(*arguments: Any) -> list[dict[str, OrganBox]]:
    """In place of networks: the boxes of the records."""
    return [
        {organ: OrganBox(low, high, 0.9) for organ, (low, high) in record.organs.items()}
        for record in arguments[3]
    ]


def train(root: Path, store: str, out: Path, *changes: str) -> None:
    sets = [word for change in (*TINY, *changes) for word in ("--set", change)]
    call("project", store_of(root, store), "--out", out, "--recipe", "tiny", *sets)


def test_organs_of_the_label_maps_have_maps(root: Path, label_maps: dict[str, Path]) -> None:
    """An organ has a map exactly where its label has voxels."""
    for name in ("one", "two"):
        store = Store.open(store_of(root, name))
        for line in store.catalogue.itertuples():
            image = nibabel.load(label_maps[str(line.patient_id)])
            labels = np.asarray(image.dataobj)  # type: ignore[attr-defined]
            maps = store.read_organ_maps([int(line.row)], list(LABELS))
            for number, (organ, own) in enumerate(LABELS.items()):
                assert maps.is_known[0, number]
                assert maps.coronal[0, number].any() == np.isin(labels, own).any(), organ


def test_a_run_of_other_scans_is_scored_without_training(
    root: Path,
    label_maps: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    train(root, "one", run)
    words = ["localise", run, store_of(root, "two"), "--box", "liver", "--margin", "0"]
    words += ["--score", "--archive", root / "two", "--trained-on", store_of(root, "one")]
    call(*words, "--out", tmp_path / "networks.csv")
    monkeypatch.setattr(localisation, "find_organ_boxes", find_true_boxes)
    call(*words, "--out", tmp_path / "true.csv")
    scores = json.loads((tmp_path / "true-scores.json").read_text())
    assert (scores["patients"], scores["masks_read"]) == (2, 2)
    assert scores["learnt_from_known_by"] == "volumes alone"
    assert scores["mean_box"] == "1 series"
    errors = pd.read_csv(tmp_path / "true-errors.csv")
    ours = errors[errors["localiser"] == "run"]
    assert (ours["error_mm"] == 0).all()
    # The slab of 40 mm cuts liver and spleen at both ends; the other scan cuts all at its lower.
    faces = ours[ours["organ"] == "liver"].groupby("patient_id")["face"].agg(set)
    assert not {"z_low", "z_high"} & faces["dicom/ct"]
    kept = pd.read_csv(tmp_path / "true-kept.csv")
    for line in kept[kept["localiser"] == "run"].itertuples():
        if line.organ not in LABELS:
            continue
        image = nibabel.load(label_maps[str(line.patient_id)])
        labels = np.asarray(image.dataobj)  # type: ignore[attr-defined]
        assert line.voxels == line.kept == np.isin(labels, LABELS[str(line.organ)]).sum()
    networks = json.loads((tmp_path / "networks-scores.json").read_text())
    assert networks["organs"][0]["faces"] == scores["organs"][0]["faces"]


def test_a_patient_is_left_out_and_scored(root: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.txt"
    others.write_text("ct\n")
    train(root, "two", tmp_path / "run", f"selection.patients_file={others}")
    words = ["localise", tmp_path / "run", store_of(root, "two"), "--box", "liver", "--score"]
    call(*words, "--archive", root / "two", "--out", tmp_path / "boxes.csv")
    errors = pd.read_csv(tmp_path / "boxes-errors.csv")
    assert set(errors["patient_id"]) == {"dicom/ct"}
    scores = json.loads((tmp_path / "boxes-scores.json").read_text())
    assert scores["left_out_learnt_from"] == {"patients": 1, "series": 1}
    assert scores["learnt_from_known_by"] == "ids and volumes"
