"""A small store with masks and the declaration of an experiment of 3D-to-2D networks on it."""

from __future__ import annotations

from pathlib import Path

from tests.support.organ_stores import organ_store
from voco_data.selection.split_file import update_split

SERIES, MASKED = 16, 13
DECLARATION = """
stage = "project"
store = "STORE"
split = "split.json"
out = "out"
recipe = "tiny"
changes = [
    "network=unet_2d", "widths=[4, 8, 8, 8, 8]", "batch_size=2", 'organs=["liver", "spleen"]',
    "fit.total_steps=6", "fit.warmup_steps=1", "fit.checkpoint_every=3",
]
masks = [2, 4]
seeds = [0, 1]
reference = "scratch"

[arms.scratch]

[arms.scratch_longer]
steps_of = "maximum"

[arms.maximum]
pretext = "maximum"
pretext_changes = ["fit.total_steps=2"]

[arms.maximum_shuffled]
pretext = "maximum"
pretext_changes = ["fit.total_steps=2"]
shuffled = true
"""
SMALL = DECLARATION.replace("[2, 4]", "[2]").replace("[0, 1]", "[0]").split("[arms.scratch_l")[0]
"""One trial, of the arm `scratch`."""


def declare_projections(folder: Path, text: str = DECLARATION) -> Path:
    """The store, its split and the declaration, in `folder`."""
    if not (folder / "stores").exists():
        store = organ_store(folder / "stores", SERIES, masked=MASKED)
        update_split(store, folder / "split.json", test_share=0.3, n_folds=2)
    (store_path,) = (folder / "stores").glob("*.zarr")
    file = folder / "experiment.toml"
    file.write_text(text.replace("STORE", f"stores/{store_path.name}"))
    return file
