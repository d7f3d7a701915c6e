"""Labels of slices: from positions computed by hand, and in runs that train on them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_record
from voco_data.errors import InputError
from voco_data.labels.targets import RSNA_TARGETS
from voco_data.store.reader import Store
from voco_data.store.spec import FINETUNE
from voco_models.data.augment_volumes import Augmentation, move_slices, move_voxels
from voco_models.data.sampling import raise_share
from voco_models.data.volume_view import VolumeView
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finetuning import finetune
from voco_models.stages.slice_labels import label_slices
from voco_models.training import checkpoint, read_history

FINDINGS: FinetuneRecipe = dataclasses.replace(
    RECIPE,
    head="organ_queries",
    pooling="stages",
    groups=RSNA_TARGETS.names,
    slice_weight=0.5,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def image_labels(cohort: tuple[Store, Path]) -> Path:
    """The two highest of four images of the first patient's series show a bleed."""
    first = cohort[0].catalogue.sort_values("patient_id").iloc[0]
    file = cohort[1].parent / "image_level_labels.csv"
    lines = ["patient_id,series_id,instance_number,injury_name"]
    lines += [
        f"{first['patient_id']},{first['series_uid']},{number},Active_Extravasation"
        for number in (3, 4)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_labels_of_slices_by_hand() -> None:
    """Four images 1 mm apart, number 1 the lowest, in a view of four slices of 1 mm."""
    record = make_record(0, np.zeros((4, 4, 4), np.uint8), FINETUNE, "a")
    view = VolumeView(slices=4, size_px=4, reduce="average")
    records = [record, dataclasses.replace(record, series_uid="series-b"), record]
    classes = {"bowel": torch.tensor([0, 1, 1]), "extravasation": torch.tensor([1, 0, 1])}
    images = {"series-a": {"extravasation": frozenset({3})}}
    labels = label_slices(records, classes, view, 4, images)
    assert labels[0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert labels[1, 0].isnan().all()  # injured, and no image is named
    assert labels[1, 1].tolist() == [0, 0, 0, 0]
    assert labels[2, 0].isnan().all()
    assert labels[2, 1].tolist() == [0, 0, 1, 0]
    without = label_slices(records, classes, view, 4)
    assert without[0, 1].isnan().all()
    assert not without[0, 0].any()


def test_labels_move_with_the_slices() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = Augmentation(shift_z=0.4, flip_z=0.5).draw(6, generator)
    values = torch.rand(6, 2, 5, generator=generator)
    moved = move_slices(values, draws)
    for finding in range(2):
        volumes = values[:, finding, :, None, None].expand(6, 5, 3, 3)
        assert torch.equal(moved[:, finding], move_voxels(volumes, draws)[..., 0, 0])
    assert not torch.equal(moved, values)


def test_a_run_learns_from_images_and_resumes(
    cohort: tuple[Store, Path], image_labels: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = {"recipe": FINDINGS, "image_labels": image_labels, "device": "cpu"}
    assert not finetune(*cohort, run, max_steps=3, **options).finished  # type: ignore[arg-type]
    copy = tmp_path / "others.csv"
    copy.write_text(image_labels.read_text().replace(",4,", ",2,"))
    with pytest.raises(InputError, match="cannot resume: the table of image labels"):
        finetune(*cohort, run, resume=True, **(options | {"image_labels": copy}))  # type: ignore[arg-type]
    assert finetune(*cohort, run, resume=True, **options).finished  # type: ignore[arg-type]
    assert all(math.isfinite(row["slices"]) for row in read_history(run / "fold-0"))
    assert checkpoint.read_run(run)["image_labels_sha256"]


def test_labels_reach_their_series(cohort: tuple[Store, Path], image_labels: Path) -> None:
    plan = make_plan(*cohort, FINDINGS, init="scratch", image_labels=image_labels)
    assert plan.slice_labels is not None
    index = plan.series.patients.index(min(plan.series.patients))
    bleeds = plan.slice_labels[:, FINDINGS.findings.index("extravasation")]
    assert bleeds[index].tolist() == [0, 0, 1, 1]
    classes = plan.classes_of(plan.series)["extravasation"]
    unknown = bleeds.isnan().all(dim=1)
    assert unknown.tolist() == [bool(c) and i != index for i, c in enumerate(classes)]


def test_findings_are_drawn_more_often(cohort: tuple[Store, Path]) -> None:
    plan = make_plan(*cohort, dataclasses.replace(FINDINGS, finding_share=0.5), init="scratch")
    weights = plan.weights_of(plan.series)
    assert weights is not None
    bleeds = plan.classes_of(plan.series)["extravasation"].numpy() > 0  # the same as injured bowels
    assert 0 < bleeds.mean() < 0.5
    assert weights[bleeds].sum() == pytest.approx(weights[~bleeds].sum())
    assert (weights[~bleeds] == 1).all()
    fewer = dataclasses.replace(FINDINGS, finding_share=0.01)
    unchanged = make_plan(*cohort, fewer, init="scratch").weights_of(plan.series)
    assert unchanged is not None
    assert (unchanged == 1).all()
    assert (raise_share(np.ones(3), np.zeros(3, np.bool_), 0.5) == 1).all()


def test_findings_alone(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    """Without an organ there is nothing to search for."""
    recipe = dataclasses.replace(FINDINGS, groups=("bowel",), attention_weight=0.5)
    assert finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu").finished


def test_tables_that_do_not_fit(
    cohort: tuple[Store, Path], image_labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="does not use labels of images; set slice_weight=1"):
        make_plan(*cohort, RECIPE, init="scratch", image_labels=image_labels)
    other = tmp_path / "other.csv"
    other.write_text("series_id,instance_number,injury_name\n1.2.3,4,Bowel\n")
    with pytest.raises(InputError, match="names no series of the store"):
        make_plan(*cohort, FINDINGS, init="scratch", image_labels=other)
    with pytest.raises(InputError, match="slice_weight must be"):
        dataclasses.replace(FINDINGS, groups=("liver",))
    with pytest.raises(InputError, match="slice_weight must be"):
        dataclasses.replace(FINDINGS, head="bilstm", pooling="mean")
    with pytest.raises(InputError, match="finding_share must be"):
        dataclasses.replace(FINDINGS, finding_share=1.0)
