"""Whether the question can be answered: random features must not tell places, ImageNet's must.

With a backbone for which random weights solve the probe, no claim of learning can be made. The
error of chance is 32 px; a random backbone with re-estimated batch norm must be at 10 px or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from voco_data.ingest.run import preprocess
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.phantom.domains import DOMAINS
from voco_data.store.reader import Store
from voco_models.networks.imagenet_lite0 import LITE0, PACKAGE
from voco_models.probes.folds import Fold, domain_folds, patient_folds
from voco_models.probes.measures import ProbeTable, difference
from voco_models.probes.probing import ProbeOptions, chance_table, probe
from voco_models.probes.volumes import ProbedVolume, read_volumes
from voco_models.stages.probing import load_named, read_domains

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("gate")]

GATE_PX, CHANCE_PX = 10.0, 32.0
OPTIONS = ProbeOptions(crops=8, position_slice_stride=0, norm_images=768)
RANDOM, IMAGENET = f"random:{LITE0}", f"imagenet:{LITE0}"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[ProbedVolume]:
    """Three unlabelled volumes of each domain, each of a patient of its own."""
    folder = tmp_path_factory.mktemp("domains")
    spec = CohortSpec(
        patients=1, unlabelled=3 * len(DOMAINS), matrix=96, seed=7, domains=tuple(DOMAINS)
    )
    cohort = write_cohort(spec, folder / "cohort")
    summary = preprocess(
        cohort.flare, folder / "root", layout="flare", specs=("pretrain",), workers=1
    )
    store = Store.open(Path(summary.stores["pretrain"]))
    return read_volumes([store], domains=read_domains(folder / "cohort" / "domains.csv"))


def measure(name: str, volumes: Sequence[ProbedVolume], folds: Sequence[Fold]) -> ProbeTable:
    return probe(load_named(name), volumes, folds, OPTIONS, reestimate=True)


def error_px(table: ProbeTable) -> float:
    return {e.probe: e.interval.value for e in table.estimates()}["crop_knn_map"]


@pytest.mark.parametrize("held_out", ["patients", "domains"])
def test_random_features_do_not_solve_phantoms_with_domains(
    phantoms: list[ProbedVolume], held_out: str
) -> None:
    folds = domain_folds(phantoms) if held_out == "domains" else patient_folds(phantoms, 3)
    by_chance = chance_table(phantoms, folds, OPTIONS)[0].interval.value
    assert by_chance == pytest.approx(CHANCE_PX, rel=0.08)
    assert error_px(measure(RANDOM, phantoms, folds)) >= GATE_PX


def test_imagenet_features_answer_on_phantoms(phantoms: list[ProbedVolume]) -> None:
    pytest.importorskip(PACKAGE)
    folds = patient_folds(phantoms, 3)
    less = difference(measure(IMAGENET, phantoms, folds), measure(RANDOM, phantoms, folds))
    assert {e.probe: e.interval.high for e in less}["crop_knn_map"] < 0


@pytest.fixture(scope="module")
def real_volumes(ct_learning_store: Path) -> list[ProbedVolume]:
    return read_volumes([Store.open(ct_learning_store)])


@pytest.mark.real_ct
def test_on_real_patients_random_features_do_not_tell_and_imagenets_do(
    real_volumes: list[ProbedVolume],
) -> None:
    folds = patient_folds(real_volumes, 3)
    random = measure(RANDOM, real_volumes, folds)
    assert len(random.by_patient["crop_knn_map"]) == 14
    assert error_px(random) >= GATE_PX
    pytest.importorskip(PACKAGE)
    imagenet = measure(IMAGENET, real_volumes, folds)
    assert error_px(imagenet) < error_px(random) - 5
    less = {e.probe: e.interval for e in difference(imagenet, random)}
    assert less["crop_knn_map"].high < 0
