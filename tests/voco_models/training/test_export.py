"""An exported backbone: timm alone loads it, and its card says how it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.precision import one_thread
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_models.stages.initial_weights import load_initial_weights
from voco_models.stages.pretraining import pretrain
from voco_models.training import checkpoint
from voco_models.training.history import read_history
from voco_models.training.provenance import read_specs

WITH_TIMM_ALONE = """
import json, sys
import numpy as np, safetensors.torch, timm, torch
run = sys.argv[1]
card = json.load(open(f"{run}/backbone.json"))
name, options = card["architecture"], {"in_chans": card["in_chans"], "num_classes": 0}
weights = f"{run}/backbone.safetensors"
created = timm.create_model(name, checkpoint_path=weights, **options)
loaded = timm.create_model(name, **options)
loaded.load_state_dict(safetensors.torch.load_file(weights))
torch.set_num_threads(1)
images = torch.from_numpy(np.load(f"{run}/images.npy"))
for how, network in {"create_model": created, "load_state_dict": loaded}.items():
    network = network.eval().to(memory_format=getattr(torch, card["memory_format"]))
    with torch.inference_mode():
        np.save(f"{run}/{how}.npy", network.forward_features(images).numpy())
assert not [name for name in sys.modules if name.startswith("voco")]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(5, GRID), level_hu=40.0)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    summary = pretrain([store.path], folder, recipe=QUICK, device="cpu", max_steps=4)
    assert summary.export == folder / "backbone.safetensors"
    return folder


def test_timm_alone_gives_features_equal_to_the_bit(run: Path, tmp_path: Path) -> None:
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    np.save(run / "images.npy", images.numpy())
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-I", "-c", WITH_TIMM_ALONE, str(run)],
        check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    backbone, _ = checkpoint.load_backbone(run)
    with one_thread(), torch.inference_mode():
        expected = backbone.eval()(images)
    for how in ("create_model", "load_state_dict"):
        np.testing.assert_array_equal(np.load(run / f"{how}.npy"), expected.numpy(), how)


def test_the_card_says_how_the_weights_were_made(run: Path, store: Store) -> None:
    card = json.loads((run / "backbone.json").read_text())
    assert card["architecture"] == QUICK.backbone
    assert (card["in_chans"], card["step"]) == (1, 4)
    assert card["scores"]["training"] == read_history(run)[-1]
    assert card["scores"]["signals"]["step"] == 4
    assert "held_out" not in card["scores"]  # nobody was held out
    assert card["input"]["from_hu"] == [40 - 200, 40 + 200]
    assert card["stores"][0]["digest"] == store.digest
    assert card["recipe"]["batch_size"] == QUICK.batch_size
    assert card["use"].startswith("Research use only.")
    assert card["provenance"] == checkpoint.read_run(run)["provenance"]


def test_the_spec_of_the_store_travels_with_the_run(run: Path, store: Store) -> None:
    (found,) = read_specs(checkpoint.read_run(run)["provenance"])
    assert found == store.spec
    assert found.digest == store.digest
    card = json.loads((run / "backbone.json").read_text())
    assert StoreSpec.from_mapping(card["specs"][store.digest]) == store.spec


def test_a_spec_that_was_edited_or_is_missing_is_refused(run: Path) -> None:
    provenance = checkpoint.read_run(run)["provenance"]
    ((digest, spec),) = provenance["specs"].items()
    with pytest.raises(InputError, match="the run was edited"):
        read_specs({"specs": {digest: {**spec, "window_level_hu": 60.0}}})
    with pytest.raises(InputError, match="an older version made the run"):
        read_specs({})


def test_an_export_is_a_start_that_keeps_its_provenance(run: Path) -> None:
    from_file = load_initial_weights(run / "backbone.safetensors", QUICK.backbone)
    from_run = load_initial_weights(run, QUICK.backbone)
    assert from_file.name.startswith("file:")
    assert from_run.name.startswith("run:")
    assert from_file.digest == from_run.digest
    assert from_file.provenance == from_run.provenance
    assert from_run.weights is not None
    assert from_file.weights is not None
    for name, tensor in from_run.weights.items():
        assert torch.equal(tensor, from_file.weights[name]), name
