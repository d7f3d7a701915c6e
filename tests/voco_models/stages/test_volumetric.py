"""3D networks in the stages: a run, its resume, its export, what starts from it, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import curve
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_models.networks.encoder import Backbone
from voco_models.networks.monai_backbones import MonaiEfficientNet
from voco_models.networks.registry import FAMILIES, Family
from voco_models.networks.volume_encoder import VolumeEncoder
from voco_models.objectives.voco2d import Voco2dConfig
from voco_models.stages.initial_weights import load_initial_weights
from voco_models.stages.pretrain_recipes import PretrainRecipe
from voco_models.stages.pretraining import pretrain
from voco_models.stages.probing import probe_backbones
from voco_models.training import PROBES, FitConfig, checkpoint, read_history

pytest.importorskip("monai")

GRID = (32, 64, 64)
NAME = "monai:efficientnet_b0"
QUICK = PretrainRecipe(
    fit=FitConfig(total_steps=2, lr=1e-3, weight_decay=0.01, log_every=1, checkpoint_every=2),
    backbone=NAME,
    voco=Voco2dConfig(grid=2, n_random=1, projector_width=16, embedding=8),
    batch_size=2,
    probe_every=2,
    probe_fraction=0.4,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(6, GRID))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    summary = pretrain([store.path], folder, recipe=QUICK, device="cpu")
    assert summary.last_step == 2
    assert summary.notes == ()
    return folder


def test_a_resumed_run_equals_an_uninterrupted_one(store: Store, run: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    pretrain([store.path], parts, recipe=QUICK, device="cpu", max_steps=1)
    pretrain([store.path], parts, recipe=QUICK, device="cpu", resume=True)
    assert curve(run) == curve(parts)
    one, other = (checkpoint.load(path / "checkpoint.pt")["objective"] for path in (run, parts))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert not torch.equal(  # the teacher is not the student
        one["student.backbone.network._conv_stem.weight"],
        one["teacher.encoder.backbone.network._conv_stem.weight"],
    )


def test_probes_ask_for_places_with_all_slices(run: Path) -> None:
    (row,) = read_history(run, PROBES)
    assert row["step"] == 2
    for owner in ("student", "teacher"):
        assert 0 < row[f"{owner}_place_ridge"] < GRID[1]
    assert {"intra", "student_rank", "teacher_rank", "correlation"} <= set(row)


WITH_MONAI_ALONE = """
import json, sys
import numpy as np, safetensors.torch, torch
from monai.networks.nets import EfficientNetBN
run = sys.argv[1]
card = json.load(open(f"{run}/backbone.json"))
assert card["architecture"] == "monai:efficientnet_b0"
assert card["memory_format"] == "contiguous_format"
network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1)
network._fc = torch.nn.Identity()
network.load_state_dict(safetensors.torch.load_file(f"{run}/backbone.safetensors"))
torch.set_num_threads(1)
with torch.inference_mode():
    features = network.eval()(torch.from_numpy(np.load(sys.argv[2])))
np.save(sys.argv[3], features.numpy())
assert not [name for name in sys.modules if name.startswith("voco")]
"""


def test_monai_alone_gives_the_exported_features(run: Path, tmp_path: Path) -> None:
    images = torch.randn(2, 1, 32, 64, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images.numpy())
    files = [str(run), str(tmp_path / "images.npy"), str(tmp_path / "features.npy")]
    subprocess.run([sys.executable, "-I", "-c", WITH_MONAI_ALONE, *files], check=True)
    backbone, _ = checkpoint.load_backbone(run)
    assert isinstance(backbone, MonaiEfficientNet)
    with torch.inference_mode():
        expected = backbone.eval()(images).mean(dim=(2, 3, 4))
    found = np.load(tmp_path / "features.npy")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert found.std() > 0


def test_the_card_names_the_network(run: Path) -> None:
    card = json.loads((run / "backbone.json").read_text())
    assert (card["architecture"], card["num_features"], card["in_chans"]) == (NAME, 1280, 1)


@pytest.mark.parametrize("file", ["", "backbone.pt", "backbone.safetensors"])
def test_first_weights_are_those_of_the_run(run: Path, file: str) -> None:
    initial = load_initial_weights(run / file, NAME)
    saved = checkpoint.load(run / "checkpoint.pt")["objective"]
    assert initial.weights is not None
    assert initial.provenance == checkpoint.read_run(run)["provenance"]
    for name, value in initial.weights.items():
        assert torch.equal(value, saved[f"student.backbone.{name}"]), name


def test_pretraining_goes_on_from_a_run(store: Store, run: Path, tmp_path: Path) -> None:
    recipe = replace(QUICK, probe_every=0, fit=replace(QUICK.fit, lr=1e-12, weight_decay=0.0))
    again = tmp_path / "again"
    pretrain([store.path], again, init=run, recipe=recipe, device="cpu", max_steps=1)
    assert checkpoint.read_run(again)["provenance"]["init"].startswith("run:")
    first, _ = checkpoint.load_backbone(run)
    second, _ = checkpoint.load_backbone(again)
    expected = dict(first.named_parameters())
    for name, value in second.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


def test_probes_leave_out_places_that_the_network_cannot_be_asked_for(
    store: Store, tmp_path: Path
) -> None:
    """The probe cuts crops of 16 px; training resizes them to the 32 px that are needed."""
    recipe = replace(
        QUICK,
        voco=replace(QUICK.voco, grid=4, encode_px=32),
        fit=replace(QUICK.fit, total_steps=1),
        probe_every=1,
    )
    summary = pretrain([store.path], tmp_path / "run", recipe=recipe, device="cpu")
    assert "the probes leave out the places of crops" in summary.notes[0]
    (row,) = read_history(tmp_path / "run", PROBES)
    assert "intra" in row
    assert not [name for name in row if "place" in name]


def refusal(words: list[str | Path], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of a call that ends with exit code 2."""
    capfd.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_the_classifier_refuses_networks_of_volumes(
    store: Store, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = sorted(store.catalogue["patient_id"])
    grades = ["healthy", "low", "high"]
    columns = [f"{organ}_{grade}" for organ in ("kidney", "liver", "spleen") for grade in grades]
    rows = [",".join([name, *["1", "0", "0"] * 3]) for name in ids]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([",".join(["patient_id", *columns]), *rows]) + "\n")
    out = tmp_path / "out"
    finetune = ["finetune", store.path, "--labels", labels, "--out", out, "--recipe", "tiny"]
    tiny = ["--set", "n_folds=2", "--set", "batch_size=2", "--set", "view.slices=16"]
    for start in (run, run / "backbone.safetensors"):
        line = refusal([*finetune, *tiny, "--init", start], capfd)
        assert f"init: {start} holds {NAME}, which takes volumes" in line
        assert "test_byobnet, which takes slices" in line
    line = refusal([*finetune, *tiny, "--set", f"backbone={NAME}", "--init", run], capfd)
    assert f"the classifier calls its backbone on slices, and {NAME} takes volumes" in line
    pretraining = ["pretrain", store.path, "--out", out, "--recipe", "tiny", "--init", run]
    line = refusal([*pretraining, "--set", "voco.grid=2"], capfd)
    assert "give a run of a backbone that takes slices" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["voco.slice_stride=2"], "got 16 x 32 x 32"),
        (["backbone=monai:swin_b"], "a multiple of 32 voxels along each axis"),
        (["voco.grid=4"], "got 32 x 16 x 16"),
        (["voco.level=slice"], "set voco.level=volume"),
        (["recompute=true"], "turn recompute off"),
    ],
)
def test_crops_that_the_network_cannot_take_are_refused_before_anything_is_written(
    store: Store, tmp_path: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrain([store.path], tmp_path / "run", recipe=QUICK, changes=changes, device="cpu")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


class Corners(Backbone):
    """A 3D network whose map is the first pixels of the first and of the last slice."""

    def __init__(self, model: str, in_chans: int, pretrained: bool | Path) -> None:
        assert pretrained is False
        super().__init__(model, in_chans, num_features=2)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (1, 5, 64, 64)
        return images[:, 0, [0, -1], 0, 0][..., None, None, None] * self.scale


def test_a_network_that_knows_the_place_has_no_error_in_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written into the first slice, columns into the last one."""
    monkeypatch.setitem(FAMILIES, "corners", Family(Corners, VolumeEncoder, takes_volumes=True))
    volumes = np.zeros((4, 5, 90, 90), np.uint8)
    volumes[:, 0] = np.arange(90)[:, None] * 2
    volumes[:, -1] = np.arange(90) * 2
    store = make_store(tmp_path / "stores", volumes)
    names = ["random:corners:2", "random:test_byobnet"]
    summary = probe_backbones([store.path], names, crops=8, n_folds=2, device="cpu")
    rows = {
        str(row["probe"]): float(str(row["value"]))
        for row in summary.rows
        if row["backbone"] == names[0] and row["batch_norm"] == "stored"
    }
    (chance,) = (float(str(row["value"])) for row in summary.chance if row["probe"] == "crop")
    assert rows["crop_ridge_map"] < 0.2 < 4 < chance
    assert rows["side_ridge"] > 0.9
    assert not {"slice_knn", "slice_ridge"} & set(rows)
    assert "slice_knn" in {row["probe"] for row in summary.rows if row["backbone"] == names[1]}


def test_a_run_is_probed_beside_random_weights(run: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "stores", random_volumes(4, (32, 72, 72)))
    summary = probe_backbones([store.path], [str(run)], crops=2, n_folds=2, device="cpu")
    assert {row["backbone"] for row in summary.rows} == {str(run), f"random:{NAME}"}
    assert {(row["backbone"], row["minus"]) for row in summary.differences} == {
        (str(run), f"random:{NAME}")
    }


def test_crops_of_the_probe_that_the_network_cannot_take_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "stores", random_volumes(4, (5, 72, 72)))
    line = refusal(["probe", store.path, "--backbone", "random:monai:swin_b"], capfd)
    assert "expected crops with a multiple of 32 voxels" in line
    assert "got 5 x 64 x 64" in line


def test_imagenet_weights_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ImageNet weights of this 3D network"):
        pretrain([store.path], tmp_path / "run", init="imagenet", recipe=QUICK, device="cpu")
    assert not (tmp_path / "run").exists()
