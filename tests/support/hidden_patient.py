"""A made-up pipeline in a folder, in which one patient is in every kind of file."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, generate_uid

from tests.support.ct_files import body, write_slices
from tests.support.small_finetune import RECIPE, grades_of, write_labels
from tests.support.small_stores import make_store, random_volumes
from voco_data.ingest.run import preprocess
from voco_data.selection.series import Selection
from voco_data.selection.split_file import update_split
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec
from voco_models.data.volume_view import VolumeView
from voco_models.objectives.voco2d import Voco2dConfig
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetuning import finetune
from voco_models.stages.prediction import predict, prepare_prediction
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.stages.pretraining import pretrain

PATIENTS = 16
GRID = (4, 96, 96)
NESTED = StoreSpec(profile="small", grid=(6, 24, 24))


@dataclass(frozen=True)
class Pipeline:
    """Where everything is."""

    folder: Path
    trained: str
    """A patient whom both trainings have learnt from."""
    tested: str
    """A patient of the test set."""

    @property
    def root(self) -> Path:
        return self.folder / "stores"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def store(self) -> Store:
        return Store.open(next(self.root.glob("*.zarr")))

    def copy(self, to: Path) -> Pipeline:
        """The same in another place."""
        return dataclasses.replace(self, folder=Path(shutil.copytree(self.folder, to)))


def patient_id(number: int) -> str:
    """Ids of which some are the beginning of others: anna-1, anna-10."""
    return f"anna-{number}"


def make_pipeline(folder: Path) -> Pipeline:
    """Pretraining, fine-tuning, an evaluation, predictions, and files of all other kinds."""
    store = make_store(folder / "stores", random_volumes(PATIENTS, GRID), change=_rename)
    ids = sorted(store.catalogue["patient_id"])
    runs = folder / "runs"
    runs.mkdir()
    labels = write_labels(runs / "train.csv", ids, grades_of(len(ids)))
    split = runs / "split.json"
    update_split(store, split, labels, n_folds=2)
    groups = json.loads(split.read_text())["additions"][0]
    tested, trained = groups["test"][0], groups["folds"][0][0]
    quick = PRETRAIN_RECIPES["tiny"]
    pretrain(
        [store.path],
        runs / "pretrain",
        recipe=dataclasses.replace(
            quick,
            fit=dataclasses.replace(quick.fit, total_steps=2, warmup_steps=1, checkpoint_every=2),
            voco=Voco2dConfig(projector_width=16, embedding=8, slice_stride=2),
            batch_size=2,
            selection=Selection(patients=tuple(p for p in ids if p not in groups["test"])),
        ),
        split=split,
    )
    finetune(
        store,
        labels,
        runs / "finetune",
        init=runs / "pretrain",
        split=split,
        recipe=dataclasses.replace(
            RECIPE,
            backbone=quick.backbone,
            epochs=1,
            view=VolumeView(slices=4, size_px=32, reduce="average"),
            selection=Selection(patients=tuple(ids)),
        ),
        device="cpu",
    )
    _copy_from_scratch(runs / "finetune", runs / "other")
    evaluate(runs / "finetune")
    prepare_prediction(runs / "finetune", runs / "predicted")
    predict(runs / "finetune", store, runs / "predicted", device="cpu")
    pipeline = Pipeline(folder, trained, tested)
    for number, patient in enumerate((trained, tested)):
        _add_other_files(pipeline, patient, number)
    return pipeline


def _copy_from_scratch(run: Path, copy: Path) -> None:
    """Another run with the same predictions, which says that it was not pretrained."""
    shutil.copytree(run, copy)
    (copy / "patients.json").unlink()
    description = json.loads((copy / "run.json").read_text())
    description |= {"init": "scratch", "pretraining": None, "exposure": None}
    (copy / "run.json").write_text(json.dumps(description, indent=2) + "\n")


def _rename(record: Record) -> Record:
    name = patient_id(record.row)
    return dataclasses.replace(
        record, patient_id=name, series_uid=f"scan-of-{name}", study_uid=f"visit-of-{name}"
    )


def _add_other_files(pipeline: Pipeline, patient: str, number: int) -> None:
    """What takes long to make, in the form in which the stages write it."""
    runs = pipeline.runs / f"more-{number}"
    others = [p for p in map(patient_id, range(PATIENTS)) if p != patient]
    everyone = [patient, *others]
    (runs / "predicted" / "sr").mkdir(parents=True)
    _write_report(runs / "predicted" / "sr" / f"visit-of-{patient}.dcm", patient)
    _write_report(runs / "predicted" / "sr" / "study-0123456789abcdef.dcm", patient)
    _write_report(runs / "predicted" / "sr" / "study-of-another.dcm", others[0])
    rows = [{"patient_id": p, "series_uid": f"scan-of-{p}", "z_mm": 1.5} for p in everyone]
    pd.DataFrame(rows).to_csv(runs / "boxes.csv", index=False)
    pd.DataFrame(rows).drop(columns="patient_id").to_parquet(runs / "boxes.parquet", index=False)
    table = pd.DataFrame(rows).astype({"patient_id": "category"})
    table.to_parquet(runs / "organ_scores.parquet", index=False)
    explained = {"patients": 16, "series": [row | {"curves": {}} for row in rows]}
    (runs / "explanation.json").write_text(json.dumps(explained, indent=1, sort_keys=True) + "\n")
    page = "".join(f"<h2>Patient {p}, series scan-of-{p}</h2>" for p in everyone)
    (runs / "explanation.html").write_text(page)
    (runs / "of-others.html").write_text("".join(f"<h2>Patient {p}</h2>" for p in others))
    (runs / "chosen.txt").write_text("".join(f"{p}\n" for p in everyone))
    pairs = runs / "pairs"
    for p in everyone:
        (pairs / f"scan-of-{p}").mkdir(parents=True)
        np.save(pairs / f"scan-of-{p}" / "coronal.npy", np.zeros((2, 2), np.float32))
    listed = [
        {"series_uid": f"scan-of-{p}", "path": f"scan-of-{p}/coronal.npy", "patient_id": p}
        for p in everyone
    ]
    pd.DataFrame(listed).to_csv(pairs / "images.csv", index=False)
    for name, digest in (("mine", pipeline.store.digest), ("foreign", "0" * 12)):
        cache = runs / "head-features" / f"tiny-{name}"
        (cache / "pooled").mkdir(parents=True)
        np.save(cache / "pooled" / "00000001.npy", np.zeros((2, 2), np.float16))
        (cache / "features.json").write_text(json.dumps({"store": {"digest": digest}}))
    for name, held in (("stopped", patient), ("stopped-elsewhere", others[0])):
        (runs / name).mkdir()
        capture = {"names": [f"scan-of-{held} (row 3 of small.zarr)"], "volumes": torch.zeros(2)}
        torch.save(capture, runs / name / "nonfinite.pt")
    archive = pipeline.folder / f"archive-{number}"
    for seed, p in enumerate((patient, others[0])):
        write_slices(archive / p, body(seed=seed), tags={"PatientID": p, "StudyInstanceUID": p})
    specs = pipeline.folder / "spec.json"
    specs.write_text(NESTED.canonical_json())
    preprocess(archive, runs / "predicted" / "stores", spec_file=specs, workers=1)
    shutil.rmtree(archive)


def _write_report(path: Path, patient: str) -> None:
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    report.SOPClassUID, report.SOPInstanceUID = ComprehensiveSRStorage, generate_uid()
    report.PatientID, report.PatientName = patient, "X"
    report.StudyInstanceUID = generate_uid()
    report.save_as(path, enforce_file_format=True)


def everything_in(folder: Path) -> dict[str, str]:
    """Path to all that a file says, as text: bytes, parts of an archive, cells of a table."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = name
            continue
        data = path.read_bytes()
        parts = [name, data.decode("latin-1")]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                parts += [archive.read(entry).decode("latin-1") for entry in archive.namelist()]
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            parts += [table.to_csv(), str(table.dtypes), *map(str, table.select_dtypes("category"))]
        found[name] = "\n".join(parts)
    return found
