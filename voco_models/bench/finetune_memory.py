"""Memory of the activations of fine-tuning, by the option `recompute`.

    python -m voco_models.bench.finetune_memory                      batches of 1 and 4, counted
    python -m voco_models.bench.finetune_memory --compute --batch 1  counted of a step with values
    python -m voco_models.bench.finetune_memory --steps 3 --slices 8 and three more steps are timed

A row is a step of the recipe `default`: the classifier in bf16 autocast, a cross-entropy, and the
backward pass, without optimiser. Without `--compute` or `--steps`, tensors have shapes but no
values. Times are processor time, in all threads: other load on the machine changes it less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from voco_models.bench.counting import LiveBytes, count_saved
from voco_models.networks import Recompute, SliceSequenceClassifier, create_backbone
from voco_models.stages import finetune_recipe

BATCHES = (1, 4)
IMAGES_PER_CALL = 32
"""Slices of a call with `recompute=calls`."""


@dataclass(frozen=True, slots=True)
class Row:
    """Memory of one step."""

    recompute: Recompute
    batch: int
    saved_bytes: int
    """Storages that autograd keeps after the forward pass, without weights, each once."""
    peak_bytes: int
    """Largest sum of all tensors that the step made, gradients of weights among them."""
    seconds: float | None
    """Processor time of a step, the median; None if none was timed."""


def measure(
    recompute: Recompute,
    batch: int,
    grid: tuple[int, int, int],
    *,
    backbone: str,
    images_per_call: int | None = None,
    compute: bool = False,
    steps: int = 0,
) -> Row:
    """The row of a step on `batch` volumes of `grid` (Z, Y, X); `steps` more are timed."""
    torch.manual_seed(0)
    classifier = SliceSequenceClassifier(
        create_backbone(backbone), grid[1], images_per_call=images_per_call, recompute=recompute
    ).train()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    compute = compute or steps > 0
    with nullcontext() if compute else fake:
        volumes = torch.rand(batch, *grid) * 2 - 1
        if not compute:
            classifier._apply(fake.from_tensor)  # type: ignore[no-untyped-call]
        with LiveBytes() as live:
            with count_saved(classifier) as saved:
                loss = compute_loss(classifier, volumes)
            torch.autograd.backward(loss)
    times = []
    for _ in range(steps):
        start = time.process_time()
        torch.autograd.backward(compute_loss(classifier, volumes))
        times.append(time.process_time() - start)
    seconds = statistics.median(times) if times else None
    return Row(recompute, batch, saved.total, live.peak, seconds)


def compute_loss(classifier: SliceSequenceClassifier, volumes: Tensor) -> Tensor:
    """A cross-entropy of volumes (B, Z, Y, X), which all are healthy."""
    classes = torch.zeros(len(volumes), dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(volumes)
    losses = [functional.cross_entropy(z.float(), classes) for z in logits.values()]
    return torch.stack(losses).sum()


def main(arguments: Sequence[str]) -> None:
    """Print a Markdown table with a row for each value of `recompute` and each batch."""
    view, backbone = finetune_recipe("default").view, finetune_recipe("default").backbone
    parser = argparse.ArgumentParser(prog="python -m voco_models.bench.finetune_memory")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--slices", type=int, default=view.slices)
    parser.add_argument("--side", type=int, default=view.size_px)
    parser.add_argument("--backbone", default=backbone)
    parser.add_argument("--recompute", nargs="+", default=["off", "blocks", "calls"])
    parser.add_argument("--images-per-call", type=int, default=IMAGES_PER_CALL)
    parser.add_argument("--compute", action="store_true", help="compute the step")
    parser.add_argument("--steps", type=int, default=0, help="steps to time")
    chosen = parser.parse_args(arguments)
    print("| `recompute` | batch | kept, GB | MB a slice | peak, GB | processor, s |")
    print("|---|---|---|---|---|---|")
    for batch in chosen.batch:
        for recompute in chosen.recompute:
            row = measure(
                recompute,
                batch,
                (chosen.slices, chosen.side, chosen.side),
                backbone=chosen.backbone,
                images_per_call=chosen.images_per_call if recompute == "calls" else None,
                compute=chosen.compute,
                steps=chosen.steps,
            )
            per_slice = row.saved_bytes / 1e6 / batch / chosen.slices
            seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
            print(
                f"| {recompute} | {batch} | {row.saved_bytes / 1e9:.2f} | {per_slice:.2f} "
                f"| {row.peak_bytes / 1e9:.2f} | {seconds} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
