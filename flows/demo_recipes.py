"""Recipes of the demos: the size of the made-up cohort, and the recipes it is trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DemoRecipe:
    """Everything that decides the result of a demo run. The report states it."""

    name: str
    patients: int
    """Labelled patients, in RATIC's layout."""
    unlabelled: int
    """Scans without labels, in FLARE23's layout."""
    matrix: int
    """Rows and columns of a slice."""
    slices: int
    """Nominal slices of a chest-to-thigh scan."""
    prevalence: float
    """Probability that an organ is injured, the same for each."""
    seed: int
    """Seed of the cohort, unless `voco demo --seed` gives another."""
    pretrain: str
    """Name of the pretraining recipe."""
    finetune: str
    """Name of the fine-tuning recipe, which also sets the number of folds."""
    finetune_changes: tuple[str, ...]
    """Changes of it in the main run: less time, lower scores."""
    explained_patients: int
    """Test patients on the page of the explanation."""
    new_patients: int
    """Patients of the same seed that no stage has seen, for the predictions."""
    head_epochs: int
    """Epochs of each head that is trained on cached features."""
    label_fractions: tuple[float, ...]
    """Fractions of the labels in the small experiment."""
    experiment_changes: tuple[str, ...]
    """Changes of the fine-tuning recipe in the small experiment: less time, lower scores."""


# voco demo: at most 6 minutes and 4 GB on 2 cores; must beat the training priors.
TINY: Final = DemoRecipe(
    name="tiny",
    patients=180,
    unlabelled=12,
    matrix=96,
    slices=48,
    prevalence=0.35,
    seed=0,
    pretrain="tiny",
    finetune="tiny",
    finetune_changes=("epochs=20",),
    explained_patients=4,
    new_patients=6,
    head_epochs=6,
    label_fractions=(0.25, 1.0),
    experiment_changes=("epochs=5", "view.slices=12", "view.size_px=32"),
)


@dataclass(frozen=True, slots=True)
class LocaliserRecipe:
    """Everything that decides the result of a demo of the localiser. The report states it."""

    name: str
    patients: int
    """Patients of all domains of harder phantoms, in RATIC's layout."""
    matrix: int
    """Rows and columns of a slice."""
    slices: int
    """Nominal slices of a chest-to-thigh scan."""
    mask_share: float
    """Share of the patients with masks of their organs."""
    test_share: float
    """Share of the patients that no run learns from."""
    seed: int
    """Seed of the cohort, unless `voco demo --seed` gives another."""
    project: str
    """Name of the recipe of 3D-to-2D networks."""
    masks: int
    """Patients whose masks are learnt from."""
    margin_mm: float
    """Margin of the boxes."""
    pictures: int
    """Series on the page of the boxes."""


# voco demo localiser: at most 5 minutes on 2 cores.
TINY_LOCALISER: Final = LocaliserRecipe(
    name="tiny",
    patients=60,
    matrix=128,
    slices=64,
    mask_share=0.8,
    test_share=0.4,
    seed=0,
    project="tiny",
    masks=10,
    margin_mm=20.0,
    pictures=6,
)
