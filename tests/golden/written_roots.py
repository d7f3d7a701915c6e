"""The roots in `written-<version>.zip`: small stores as a release wrote them, to be read for ever.

    python -m tests.golden.written_roots VERSION

The root `pseudonyms` holds an archive of every layout, raw and in LZ4; `kept` holds a DICOM
folder. Both have ledgers, previews, and what `voco preprocess` keeps beside the stores.
`truth.json` tells what lies in the stores, read without voco (tests/support/store_truth.py).
Pages are left out: they are not read again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from tests.support import store_truth
from tests.support.ct_files import body, write_slices
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

HERE = Path(__file__).parent
RAW = StoreSpec(profile="raw", grid=(4, 16, 16))
LZ4 = StoreSpec(profile="lz4", grid=(6, 20, 20), compression="lz4")
FIELDS = (
    "row",
    "patient_id",
    "study_uid",
    "ids",
    "layout",
    "source",
    "shape",
    "spacing_mm",
    "origin_mm",
    "permutation",
    "flips",
    "box_low_mm",
    "box_high_mm",
    "organs",
    "organ_maps",
    "instance_numbers",
    "flags",
)
SHAPE = (16, 40, 40)
ORGAN = (slice(4, 12), slice(12, 24), slice(10, 26))


def _nifti(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-3.0, -3.0, 6.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), path)


def _label() -> npt.NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    label[ORGAN] = 1
    return label


def make_archives(folder: Path) -> dict[str, Path]:
    """An archive of one or two series in every layout."""
    made = {name: folder / name for name in ("ratic", "flare", "nnunet", "decathlon")}
    made |= {name: folder / name for name in ("totalsegmentator", "dicom", "nifti")}
    write_slices(made["ratic"] / "train_images/42/100", body(SHAPE, seed=1))
    for name in ("train_2024.csv", "train_series_meta.csv"):
        (made["ratic"] / name).write_text("patient_id\n42\n")
    _nifti(made["flare"] / "imagesTr/FLARE23_0001_0000.nii.gz", body(SHAPE, seed=2))
    _nifti(made["flare"] / "labelsTr/FLARE23_0001.nii.gz", _label())
    _nifti(made["nnunet"] / "Dataset001_Liver/imagesTr/case_1_0000.nii.gz", body(SHAPE, seed=3))
    _nifti(made["nnunet"] / "Dataset001_Liver/labelsTr/case_1.nii.gz", _label())
    names = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}
    names |= {"file_ending": ".nii.gz", "numTraining": 1}
    (made["nnunet"] / "Dataset001_Liver/dataset.json").write_text(json.dumps(names))
    _nifti(made["decathlon"] / "Task03_Liver/imagesTr/liver_1.nii.gz", body(SHAPE, seed=4))
    _nifti(made["decathlon"] / "Task03_Liver/labelsTr/liver_1.nii.gz", _label())
    task = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}}
    (made["decathlon"] / "Task03_Liver/dataset.json").write_text(json.dumps(task))
    _nifti(made["totalsegmentator"] / "s0001/ct.nii.gz", body(SHAPE, seed=5))
    _nifti(made["totalsegmentator"] / "s0001/segmentations/liver.nii.gz", _label())
    _nifti(made["totalsegmentator"] / "s0001/segmentations/spleen.nii.gz", _label() * 0)
    write_slices(made["dicom"] / "a", body(SHAPE, seed=6), tags={"PatientID": "someone"})
    write_slices(made["dicom"] / "short", body(SHAPE, seed=7)[:4])
    _nifti(made["nifti"] / "scan.nii", body(SHAPE, seed=8))
    return made


def make_roots(folder: Path) -> None:
    """Fill `folder/pseudonyms` and `folder/kept`, and write `folder/truth.json`."""
    with tempfile.TemporaryDirectory() as work:
        archives = make_archives(Path(work))
        specs = Path(work) / "specs.json"
        specs.write_text(f"[{RAW.canonical_json()}, {LZ4.canonical_json()}]")
        for name, archive in archives.items():
            made = preprocess(archive, folder / "pseudonyms", spec_file=specs, workers=1)
            assert made.layout == name, (made.layout, name)
            assert made.stored == 1, name
        preprocess(archives["dicom"], folder / "kept", spec_file=specs, workers=1, keep_ids=True)
    truth = {root: read_truth(folder / root) for root in ("pseudonyms", "kept")}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1, sort_keys=True))


def read_truth(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Store to series id to what its record says, and a hash of its chunk as it lies on disk."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for store in sorted(path.parent for path in root.glob("*.zarr/zarr.json")):
        series = found[store.name] = {}
        for path in (store / "volumes/records").glob("*/*.json"):
            row, record = store_truth.read_record(path)
            chunk = (store / f"volumes/c/{row}/0/0/0").read_bytes()
            series[record["series_uid"]] = {name: record[name] for name in FIELDS if name in record}
            series[record["series_uid"]] |= {"chunk_sha256": hashlib.sha256(chunk).hexdigest()}
    return found


def write(version: str) -> Path:
    """Write the archive of this release; the same version is never written again."""
    target = HERE / f"written-{version}.zip"
    assert not target.exists(), f"{target}: stores of a release stay as they are"
    with tempfile.TemporaryDirectory() as work:
        make_roots(Path(work))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted(Path(work).rglob("*")):
                if path.is_file() and path.suffix not in (".html", ".lock", ".fence"):
                    packed.write(path, path.relative_to(work))
    return target


if __name__ == "__main__":
    print(write(sys.argv[1]))
