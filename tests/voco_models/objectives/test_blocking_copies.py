"""No operation of a step waits for the device: traced with tensors that hold no values.

The networks and losses run on fake CUDA tensors. An operation whose result depends on values cannot
run on them at all, and every copy from the CPU is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from tests.voco_models.objectives.test_voco2d import PLANE, batch_of, objective_of
from voco_models.data.augment_crops import IntensityAugment
from voco_models.data.augment_planes import VolumeAugment
from voco_models.data.loader import Batch
from voco_models.objectives.losses import LossOptions
from voco_models.objectives.voco2d import Voco2d

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "all pairs": {"loss": LossOptions(inter="all_pairs")},
    "plain": {"loss": LossOptions(form="plain", reg="abs", direction="symmetric"), "target": "iou"},
    "slices": {"level": "slice", "slice_stride": 2, "slices": "separate"},
    "places": {
        "loss": LossOptions(inter="all_pairs", inter_target="overlap", reg="off"),
        "student_crops": "random",
    },
    "augmented": {
        "augment": IntensityAugment(0.1, 0.1, 0.1, 0.1),
        "volume_augment": VolumeAugment(flip_x=0.5, flip_z=0.5, rotate_deg=10),
    },
}


class Copies(TorchDispatchMode):
    """Records copies from the CPU to the device: whether the CPU waits for each."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        options = dict(kwargs or {})
        result = func(*args, **options)
        devices = [a.device.type for a in (*args, result) if isinstance(a, Tensor)]
        if func.name().startswith(("aten::_to_copy", "aten::copy_")) and len(set(devices)) > 1:
            self.waits.append(not options.get("non_blocking", False))
        return result


pinned: list[Tensor] = []


def pin(values: Tensor) -> Tensor:
    """Note a tensor that would be pinned."""
    pinned.append(values)
    return values


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Tensors that claim to be on CUDA. Memory cannot be pinned, nor noise seeded, without it."""
    cpu_generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": cpu_generator())
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def trace(objective: Voco2d, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the CPU waits, for each copy of a forward pass and an update of the teacher.

    The backward pass needs a CUDA driver; `make gpu` takes whole steps in the sync debug mode.
    """
    batch = batch_of(3, slices=4)
    draws = objective.draw(batch)
    monkeypatch.setattr(objective, "draw", lambda _: draws)
    with fake_cuda(monkeypatch) as mode:
        objective._apply(lambda t: mode.from_tensor(t).to("cuda"))
        volumes = torch.empty(3, 4, *PLANE, dtype=torch.uint8, device="cuda")
        pinned.clear()
        with Copies() as copies:
            objective(Batch(volumes, batch.items, batch.seed))
            objective.after_step(0.5)
    return copies.waits


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_waits(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = trace(objective_of(**VARIANTS[variant]), monkeypatch)
    assert waits
    assert not any(waits)
    assert len(pinned) == len(waits)  # else the copy would wait, whatever it was told


def test_a_copy_that_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = objective_of()
    original = objective._inter

    def with_a_constant(*args: Any) -> Tensor:
        loss: Tensor = original(*args)
        return loss * loss.new_tensor(1.0)

    monkeypatch.setattr(objective, "_inter", with_a_constant)
    assert any(trace(objective, monkeypatch))


def test_a_value_that_the_cpu_needs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in (lambda loss: loss[loss > 0].sum(), lambda loss: loss * float(loss)):
        objective = objective_of()
        original = objective._inter
        monkeypatch.setattr(
            objective, "_inter", lambda *a, of=original, wait=wait: wait(of(*a)[None])
        )
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            trace(objective, monkeypatch)
