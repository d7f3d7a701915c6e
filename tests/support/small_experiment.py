"""A small cohort and the declaration of an experiment on it, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from tests.support.small_finetune import PATIENTS, grades_of, write_labels
from tests.support.small_stores import make_store, random_volumes

RECIPE = """
base = "tiny"
view = {slices = 4, size_px = 32, reduce = "average", z_range = [0.0, 1.0]}
epochs = 1
batch_size = 2
head = "bilstm"
hidden = 4
pooling = "quadrants"
attention_weight = 0.0
log_every = 2
checkpoint_every = 2
"""
DECLARATION = """
store = "STORE"
labels = "train.csv"
out = "out"
recipe = "small.toml"
reference = "scratch"
seeds = [0, 1]
label_fractions = [0.6, 1.0]

[arms.scratch]

[arms.voco]
pretrain = ["STORE"]
recipe = "tiny"
changes = ["fit.total_steps=2", "fit.checkpoint_every=1", "fit.warmup_steps=1", "batch_size=2"]
"""


def declare(folder: Path, text: str = DECLARATION) -> Path:
    """A small cohort and the declaration of an experiment on it."""
    if not (folder / "small.toml").exists():
        store = make_store(folder / "stores", random_volumes(PATIENTS, (4, 96, 96)))
        ids = sorted(store.catalogue["patient_id"])
        write_labels(folder / "train.csv", ids, grades_of(len(ids)))
        (folder / "small.toml").write_text(RECIPE)
    (store_path,) = (folder / "stores").glob("*.zarr")
    file = folder / "experiment.toml"
    file.write_text(text.replace("STORE", f"stores/{store_path.name}"))
    return file
