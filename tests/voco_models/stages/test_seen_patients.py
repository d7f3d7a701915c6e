"""Who was seen: a run that starts from another has learnt from the patients of both."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK
from voco_data.errors import InputError
from voco_data.selection.exposure import FILE, SeenPatients
from voco_data.selection.series import Selection
from voco_data.selection.split import Addition, Split
from voco_data.selection.split_file import now, write_split
from voco_data.store.reader import Store
from voco_data.withdrawal.taint import is_tainted, mark_tainted, read_mark
from voco_models.data.items import items_of
from voco_models.stages.held_out_patients import hold_out_patients
from voco_models.stages.initial_weights import load_initial_weights
from voco_models.stages.pretraining import pretrain


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "stores", random_volumes(6, GRID))


def pretrain_on(store: Store, run: Path, first: int, init: Path | str = "scratch") -> None:
    """A step on three patients, from the number `first`."""
    patients = tuple(f"patient-{n:03d}" for n in range(first, first + 3))
    recipe = dataclasses.replace(QUICK, selection=Selection(patients=patients))
    pretrain([store.path], run, init=init, recipe=recipe, device="cpu", max_steps=1)


def seen_ids(seen: SeenPatients | None) -> list[str]:
    assert seen is not None
    return sorted(patient for part in seen.stores for patient in part.contents)


def test_a_run_from_a_run_has_seen_the_patients_of_both(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain_on(store, first, 0)
    pretrain_on(store, second, 2, init=first)
    everyone = [f"patient-{n:03d}" for n in range(5)]
    assert seen_ids(SeenPatients.read(second)) == everyone
    assert seen_ids(load_initial_weights(second, QUICK.backbone).seen) == everyone
    assert seen_ids(load_initial_weights(first, QUICK.backbone).seen) == everyone[:3]


@pytest.mark.parametrize("unknown", ["no list of patients", "a copy of the export alone"])
def test_from_unknown_weights_it_is_unknown_who_was_seen(
    store: Store, tmp_path: Path, unknown: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain_on(store, first, 0)
    init = first
    if unknown == "a copy of the export alone":
        init = tmp_path / "copy.safetensors"
        init.write_bytes((first / "backbone.safetensors").read_bytes())
    else:
        (first / FILE).unlink()
    pretrain_on(store, second, 2, init=init)
    assert not SeenPatients.is_written(second)
    assert load_initial_weights(second, QUICK.backbone).seen is None


def test_a_run_from_a_marked_run_is_marked_too(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    pretrain_on(store, first, 0)
    pretrain_on(store, second, 2, init=first)
    assert not is_tainted(second)
    mark_tainted(first, "0123", "2026-03-01T03:00:00Z")
    pretrain_on(store, third, 2, init=first / "backbone.pt")
    assert read_mark(third) == read_mark(first)
    assert "backbone.pt has learnt from a patient who was forgotten" in caplog.text


def test_a_list_of_other_patients_is_not_believed(store: Store, tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    pretrain_on(store, first, 0)
    pretrain_on(store, other, 3)
    (first / FILE).write_bytes((other / FILE).read_bytes())
    assert load_initial_weights(first, QUICK.backbone).seen is None


def test_weights_that_have_seen_test_patients_are_refused(store: Store, tmp_path: Path) -> None:
    first, split = tmp_path / "first", tmp_path / "split.json"
    pretrain_on(store, first, 0)
    added = Addition(
        when=now(),
        test=("patient-001", "patient-004"),
        folds=(("patient-000", "patient-003"), ("patient-002", "patient-005")),
    )
    write_split(split, Split(n_folds=2, additions=(added,)))
    call = partial(
        pretrain, [store.path], recipe=QUICK, device="cpu", max_steps=1, init=first, split=split
    )
    for init in (first, first / "backbone.pt", first / "backbone.safetensors"):
        with pytest.raises(InputError, match="has learnt from 1 of the split's 2 test patients"):
            call(tmp_path / "second", init=init)
    assert not (tmp_path / "second").exists()
    call(tmp_path / "third", transductive=True)
    (first / FILE).unlink()
    call(tmp_path / "fourth")  # it is not known: a warning


def test_weights_follow_the_items_that_are_trained_on(store: Store) -> None:
    items = items_of([store])
    weights = np.arange(1.0, 7.0)
    training, probed, kept = hold_out_patients([store], items, 0.4, weights)
    assert probed
    assert kept is not None
    assert kept.tolist() == [item.row + 1.0 for item in training]
    assert hold_out_patients([store], items, 0.4, np.ones(6))[2] is None


def test_a_weighted_order_is_shuffled() -> None:
    selection = Selection(weights={"ratic": 2.0})
    with pytest.raises(InputError, match="weights need shuffle"):
        dataclasses.replace(QUICK, selection=selection, shuffle=False)
