"""The stage of probes: what frozen backbones know about place, beside their controls."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from voco_data.errors import InputError
from voco_data.selection import Exposure, read_split
from voco_data.storage import read_table
from voco_data.store import Store
from voco_models.data import step_seed
from voco_models.networks import (
    LITE0,
    Backbone,
    create_backbone,
    create_imagenet_lite0,
    takes_volumes,
)
from voco_models.probes import (
    Estimate,
    Fold,
    ProbedVolume,
    ProbeOptions,
    ProbeTable,
    chance_table,
    difference,
    domain_folds,
    held_out_fold,
    patient_folds,
    probe,
    read_volumes,
)
from voco_models.stages.initial_weights import read_seen_patients
from voco_models.stages.pretrain_plan import open_stores
from voco_models.stages.pretrain_series import measure_seen
from voco_models.training import checkpoint, choose_device

log = logging.getLogger(__name__)

RANDOM, IMAGENET = "random:", "imagenet:"
DEFAULT_FOLDS = 5
MAX_VOLUMES = 200
"""Read at most so many volumes, unless another number is given: the features stay in memory."""
CROPS = 16
STORED, REESTIMATED = "stored", "re-estimated"
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class ProbeSummary:
    """Tables of a call of `probe_backbones`, as rows of plain values."""

    stores: tuple[str, ...]
    volumes: int
    patients: int
    held_out: str
    """Which patients are left out together."""
    options: ProbeOptions
    """Of backbones that take slices."""
    chance: list[Row]
    rows: list[Row]
    """A row for each backbone, kind of batch norm statistics and probe."""
    ranks: list[Row]
    differences: list[Row]
    """Each row of a backbone minus each of the random backbone of its architecture."""
    seen: dict[str, int | None]
    """Backbone to how many of the patients it has learnt from; None if this is not known."""
    by_patient: dict[str, dict[str, dict[str, float]]]
    """`BACKBONE / STATISTICS` to probe to patient to error."""
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The summary as plain JSON values."""
        values = dataclasses.asdict(self)
        values["stores"], values["notes"] = list(self.stores), list(self.notes)
        return values


def probe_backbones(
    stores: Sequence[str | Path],
    backbones: Sequence[str],
    *,
    split: str | Path | None = None,
    domains: str | Path | None = None,
    by_domain: bool = False,
    n_folds: int = DEFAULT_FOLDS,
    max_volumes: int = MAX_VOLUMES,
    crops: int = CROPS,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ProbeSummary:
    """Probe frozen backbones and their controls on volumes of `stores`, patients left out.

    Parameters
    ----------
    stores : folders or URLs of stores of one grid.
    backbones : each a run folder, its `backbone.pt` or `backbone.safetensors`, `random:NAME` or
        `imagenet:NAME`. Beside each, random weights of its architecture are measured; and
        ImageNet's, where their weights are installed (`tf_efficientnet_lite0`). Each is measured
        with its own batch norm statistics, and with those of the volumes that the probe is fitted
        on. A 3D backbone gets all slices of a crop, and is not asked for positions of slices.
    split : a split file; the probe is fitted on all patients outside its test set, and measured on
        those in it. Without, folds of patients are left out in turn.
    domains : a table (CSV) with `patient_id` and `domain`.
    by_domain : leave out one domain after the other, instead of folds of patients.
    n_folds : number of folds of patients.
    max_volumes : read at most so many volumes, of as many patients as possible.
    crops : crops per volume.
    seed : of the crops, the folds and the random weights.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for stores that do not fit together, no backbone, one that cannot be had or does
        not take the crops, fewer than two patients or domains, and a table or split that cannot be
        read or does not fit.
    """
    started = time.monotonic()
    options = ProbeOptions(crops=crops, seed=seed)
    if not backbones:
        raise InputError("probe: expected at least one backbone, got none")
    if split is not None and by_domain:
        raise InputError("probe: give a split or leave domains out, not both")
    opened = open_stores(stores)
    for architecture in sorted({_architecture(name) for name in backbones}):
        if takes_volumes(architecture):  # 2D ones take crops of any size
            size = (opened[0].grid[0], options.crop_px, options.crop_px)
            create_backbone(architecture).check_size(size)
    owners = None if domains is None else read_domains(Path(domains))
    volumes = read_volumes(opened, domains=owners, limit=max_volumes, seed=options.seed)
    folds, held_out = _choose_folds(volumes, split, by_domain, n_folds, options.seed)
    notes = []
    stored = sum(len(store) for store in opened)
    if len(volumes) < stored:
        notes.append(f"{len(volumes)} of {stored} volumes, drawn at random, of each patient first")
    target = choose_device(device)
    tables: dict[tuple[str, str], ProbeTable] = {}
    randoms: dict[str, str] = {}
    measured = {patient for fold in folds for patient in fold}
    exposures: dict[str, Exposure] = {}
    for name in _with_controls(backbones, notes):
        network = load_named(name, options.seed).to(target)
        exposures[name] = _measure_exposure(name, opened, measured)
        if exposures[name].pretrained and exposures[name].seen != 0:
            notes.append(f"{name}: {exposures[name].sentence}")
            log.warning("%s", notes[-1])
        randoms[name] = RANDOM + network.name
        own = _options_of(network.name, options)
        for statistics in (STORED, REESTIMATED):
            log.info("probing %s, batch norm %s", name, statistics)
            tables[name, statistics] = probe(
                network, volumes, folds, own, reestimate=statistics == REESTIMATED
            )
    return ProbeSummary(
        stores=tuple(str(store.storage) for store in opened),
        volumes=len(volumes),
        patients=len(measured),
        held_out=held_out,
        options=options,
        chance=_rows(chance_table(volumes, folds, options)),
        rows=[
            {"backbone": name, "batch_norm": statistics} | row
            for (name, statistics), table in tables.items()
            for row in _rows(table.estimates(options.seed))
        ],
        ranks=[
            {
                "backbone": name,
                "batch_norm": statistics,
                "rank_me": table.rank_me,
                "effective_rank": table.effective_rank,
            }
            for (name, statistics), table in tables.items()
        ],
        differences=[
            {
                "backbone": name,
                "batch_norm": statistics,
                "minus": randoms[name],
                "minus_batch_norm": control,
            }
            | row
            for (name, statistics), table in tables.items()
            if name != randoms[name]
            for control in (STORED, REESTIMATED)
            for row in _rows(difference(table, tables[randoms[name], control], options.seed))
        ],
        seen={name: exposure.seen for name, exposure in exposures.items()},
        by_patient={
            f"{name} / {statistics}": {key: dict(values) for key, values in t.by_patient.items()}
            for (name, statistics), t in tables.items()
        },
        notes=tuple(notes),
        seconds=round(time.monotonic() - started, 1),
    )


def _options_of(name: str, options: ProbeOptions) -> ProbeOptions:
    """A 3D backbone gets all slices of a crop, and is not asked for the position of a slice."""
    if not takes_volumes(name):
        return options
    return dataclasses.replace(options, crop_slice_stride=1, position_slice_stride=0)


def _measure_exposure(name: str, stores: Sequence[Store], patients: Collection[str]) -> Exposure:
    """How many of the measured patients a backbone has learnt from."""
    if name.startswith((RANDOM, IMAGENET)):
        return Exposure(pretrained=False, test_patients=len(patients), seen=0)
    _, provenance = checkpoint.load_backbone(Path(name))
    return measure_seen(read_seen_patients(Path(name), provenance), stores, patients)


def load_named(name: str, seed: int = 0) -> Backbone:
    """The backbone of a run, its `backbone.pt` or export, `random:NAME` or `imagenet:NAME`.

    Raises InputError for an unknown name, and for weights that cannot be loaded.
    """
    if name.startswith(RANDOM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, 0))
            return create_backbone(name.removeprefix(RANDOM))
    if name.startswith(IMAGENET):
        model = name.removeprefix(IMAGENET)
        if model == LITE0:
            return create_imagenet_lite0()
        return create_backbone(model, pretrained=True)
    backbone, _ = checkpoint.load_backbone(Path(name))
    return backbone


def read_domains(path: Path) -> dict[str, str]:
    """Domain by patient, of a CSV file. Raises InputError if it is none, or names two for one."""
    table = read_table(path, "domains", ("patient_id", "domain"), blank_is_text=True)
    if not {"patient_id", "domain"} <= set(table.columns):
        raise InputError(f"{path}: expected the columns patient_id and domain")
    domains: dict[str, str] = {}
    for patient, domain in zip(table["patient_id"], table["domain"], strict=True):
        if domains.setdefault(patient, domain) != domain:
            raise InputError(f"{path}: a patient is in several domains; give each patient one")
    return domains


def _choose_folds(
    volumes: Sequence[ProbedVolume],
    split: str | Path | None,
    by_domain: bool,
    n_folds: int,
    seed: int,
) -> tuple[list[Fold], str]:
    """The folds, and in words who is left out."""
    if split is not None:
        return held_out_fold(volumes, read_split(Path(split)).test), "test patients of the split"
    if by_domain:
        folds = domain_folds(volumes)
        return folds, f"each of {len(folds)} domains in turn"
    folds = patient_folds(volumes, n_folds, seed)
    return folds, f"each of {len(folds)} folds of patients in turn"


def _with_controls(backbones: Sequence[str], notes: list[str]) -> Iterator[str]:
    """The controls of each architecture, then the backbones; each name once."""
    seen: set[str] = set()
    for name in backbones:
        controls = []
        architecture = _architecture(name)
        controls.append(RANDOM + architecture)
        if architecture == LITE0:
            try:
                create_imagenet_lite0()
                controls.append(IMAGENET + LITE0)
            except InputError as error:
                notes.append(str(error))
        for each in (*controls, name):
            if each not in seen:
                seen.add(each)
                yield each


def _architecture(name: str) -> str:
    """The network's name in a recipe."""
    for prefix in (RANDOM, IMAGENET):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return load_named(name).name


def _rows(estimates: Sequence[Estimate]) -> list[Row]:
    return [estimate.to_json() for estimate in estimates]
