"""What student and teacher know about place on held-out patients, during pretraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.data import Item, input_window
from voco_models.networks import takes_volumes
from voco_models.objectives import Voco2d
from voco_models.probes import ProbedVolume, ProbeOptions, probe
from voco_models.training import Objective

MAX_VOLUMES = 16
"""Volumes that the probe is fitted on, and held-out ones that it is measured on."""
CROPS = 8
"""Crops per volume."""
QUESTIONS = {"crop_knn_map": "place_knn", "crop_ridge_map": "place_ridge"}
"""Probe of `voco_models.probes` -> name in a row of the probes, after `student_` or `teacher_`."""


class PlaceProbe:
    """A probe of `ProbeMonitor`: the error of crop positions in px, of student and teacher.

    It is fitted on volumes that are trained on, and measured on held-out ones; see docs/probes.md.
    Batch norm statistics are those of the volumes that it is fitted on. Crops are the same at every
    call. A 3D backbone gets as many slices of a crop as in training.
    """

    def __init__(self, fitted: Sequence[Item], held_out: Sequence[Item]) -> None:
        """Read at most `MAX_VOLUMES` volumes of each."""
        known, unknown = (_read(_spread(items)) for items in (fitted, held_out))
        self._volumes = known + unknown
        self._fold = frozenset(volume.patient for volume in unknown)

    def __call__(self, step: int, objective: Objective) -> dict[str, float]:
        """Mean errors over the held-out patients."""
        del step
        assert isinstance(objective, Voco2d)
        options = _choose_options(objective)
        networks = {
            "student": objective.student.backbone,
            "teacher": objective.teacher.encoder.backbone,
        }
        row = {}
        for owner, backbone in networks.items():
            table = probe(backbone, self._volumes, [self._fold], options, reestimate=True)
            for question, name in QUESTIONS.items():
                errors = table.by_patient[question]
                row[f"{owner}_{name}"] = sum(errors.values()) / len(errors)
        return row


def fits(objective: Voco2d, slices: int) -> bool:
    """Whether the backbone takes the crops of the probe, of volumes of so many slices.

    The probe cuts squares and does not resize them, so that a 3D backbone may not take them.
    """
    options = _choose_options(objective)
    count = -(-slices // options.crop_slice_stride)
    try:
        objective.student.backbone.check_size((count, options.crop_px, options.crop_px))
    except InputError:
        return False
    return True


def _choose_options(objective: Voco2d) -> ProbeOptions:
    crop_px, stride = min(objective.plan.size), objective.config.slice_stride
    options = ProbeOptions(crop_px=crop_px, crops=CROPS, position_slice_stride=0)
    if takes_volumes(objective.student.backbone.name):
        return dataclasses.replace(options, crop_slice_stride=stride)
    return options


def _spread(items: Sequence[Item]) -> Sequence[Item]:
    """At most `MAX_VOLUMES` of the items, evenly spaced."""
    return items[:: -(-len(items) // MAX_VOLUMES)]


def _read(items: Sequence[Item]) -> list[ProbedVolume]:
    volumes = []
    for item in items:
        assert isinstance(item.store, Store)
        table, window = item.store.catalogue, input_window(None, item.store.spec)
        (patient,) = table.loc[table["row"] == item.row, "patient_id"]
        voxels = torch.from_numpy(item.store.read(item.row))
        volumes.append(ProbedVolume(voxels, str(patient), low=window.low, high=window.high))
    return volumes
