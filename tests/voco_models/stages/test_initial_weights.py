"""First weights: of a file, a run or the network, and one line where they cannot be had."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_models.networks import backbones
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.imagenet_lite0 import LITE0, PACKAGE, imagenet_lite0_weights
from voco_models.stages.initial_weights import load_initial_weights
from voco_models.stages.pretraining import pretrain
from voco_models.training import checkpoint


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "stores", random_volumes(5, GRID))


def published(classes: int = 10) -> dict[str, torch.Tensor]:
    """The state dict of a colour classifier, as timm publishes it."""
    torch.manual_seed(7)
    return dict(timm.create_model(TINY_BACKBONE, num_classes=classes).state_dict())


def save_safetensors(path: Path) -> Path:
    safetensors.torch.save_file(published(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def save_pth(path: Path) -> Path:
    torch.save(published(), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def save_old_pickle(path: Path) -> Path:
    file = path.with_suffix(".pth")
    torch.save(published(), file, _use_new_zipfile_serialization=False)
    return file


def save_training_checkpoint(path: Path) -> Path:
    weights = {f"module.{name}": tensor for name, tensor in published().items()}
    torch.save({"epoch": 3, "state_dict": weights}, path.with_suffix(".tar"))
    return path.with_suffix(".tar")


@pytest.mark.parametrize(
    "save",
    [save_safetensors, save_pth, save_old_pickle, save_training_checkpoint],
    ids=lambda save: save.__name__,
)
def test_weights_of_a_file(save: Callable[[Path], Path], tmp_path: Path) -> None:
    initial = load_initial_weights(save(tmp_path / "weights"), TINY_BACKBONE)
    assert initial.name.startswith("file:")
    assert initial.weights is not None
    found = {key.removeprefix("network."): tensor for key, tensor in initial.weights.items()}
    expected = {k: v for k, v in published().items() if not k.startswith("head.fc.")}
    assert set(found) == set(expected)
    (stem,) = (key for key in found if found[key].shape != expected[key].shape)
    torch.testing.assert_close(found[stem], expected[stem].sum(dim=1, keepdim=True))
    for name in set(found) - {stem}:
        assert torch.equal(found[name], expected[name]), name


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    weights = published()
    first = next(key for key in weights if key.endswith("conv.weight"))
    cases = {
        "is missing": {k: v for k, v in weights.items() if k != first},
        "is not of this network": weights | {"blocks.9.weight": torch.zeros(1)},
        "has another shape": weights | {first: torch.zeros(1, 2, 3, 3)},
    }
    for number, (message, case) in enumerate(cases.items()):
        file = tmp_path / f"{number}.pth"
        torch.save(case, file)
        with pytest.raises(InputError, match=message) as caught:
            load_initial_weights(file, TINY_BACKBONE)
        assert "\n" not in str(caught.value)


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("run-by-pickle"),)  # type: ignore[return-value]


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({"x": Malicious()}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(InputError, match="reading them could run code"):
            load_initial_weights(tmp_path / name, TINY_BACKBONE)
    assert not (tmp_path / "run-by-pickle").exists()


def test_files_that_hold_no_state_dict_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00")
    (tmp_path / "empty.pth").touch()
    for name in ("list.pth", "torn.safetensors", "empty.pth"):
        with pytest.raises(InputError) as caught:
            load_initial_weights(tmp_path / name, TINY_BACKBONE)
        assert "\n" not in str(caught.value)


def test_without_a_network_it_is_one_line_soon(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing listens on port 9, the service `discard`."""
    monkeypatch.setattr(backbones.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(backbones.huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    out = tmp_path / "run"
    words = ["pretrain", str(store.path), "--out", str(out), "--recipe", "tiny"]
    began = time.monotonic()
    assert main([*words, "--init", "imagenet"]) == 2
    assert time.monotonic() - began < 2 * backbones.CONNECT_SECONDS
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        "voco pretrain: error: backbone test_byobnet: ImageNet weights are not in the cache, and "
        "http://127.0.0.1:9 cannot be reached; give a downloaded file of weights with --init FILE"
    )
    assert not out.exists()


def test_weights_in_the_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_safetensors(tmp_path / "model")
    monkeypatch.setattr(backbones.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        backbones.huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(file)
    )
    initial = load_initial_weights("imagenet", TINY_BACKBONE)
    assert initial.name == "imagenet"
    assert initial.digest == load_initial_weights(file, TINY_BACKBONE).digest


def test_the_installed_weights_of_lite0_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(PACKAGE)
    monkeypatch.setattr(backbones.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    initial = load_initial_weights("imagenet", LITE0)
    assert initial.name == "imagenet"
    assert initial.weights is not None
    published = imagenet_lite0_weights()
    assert torch.equal(initial.weights["network.conv_head.weight"], published["conv_head.weight"])


def test_pretraining_starts_from_a_file_and_records_it(store: Store, tmp_path: Path) -> None:
    file = save_safetensors(tmp_path / "model")
    slow = ["fit.lr=1e-12", "fit.weight_decay=0"]
    run = tmp_path / "run"
    pretrain([store.path], run, init=file, recipe=QUICK, changes=slow, device="cpu", max_steps=1)
    initial = load_initial_weights(file, TINY_BACKBONE)
    assert initial.weights is not None
    saved = checkpoint.load(run / "checkpoint.pt")["objective"]
    for name, parameter in checkpoint.load_backbone(run)[0].named_parameters():
        for network in ("student.backbone", "teacher.encoder.backbone"):
            torch.testing.assert_close(
                saved[f"{network}.{name}"], initial.weights[name], rtol=0, atol=1e-9
            )
        del parameter
    provenance = checkpoint.read_run(run)["provenance"]
    assert provenance["init"] == initial.name
    assert provenance["initial_weights"] == {"name": initial.name, "sha256": initial.digest}
    with pytest.raises(InputError, match=r"cannot resume: init was 'file:"):
        pretrain([store.path], run, recipe=QUICK, changes=slow, device="cpu", resume=True)


def test_pretraining_goes_on_from_a_run(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain([store.path], first, recipe=QUICK, device="cpu")
    pretrain([store.path], second, init=first, recipe=QUICK, device="cpu", max_steps=1)
    assert checkpoint.read_run(second)["provenance"]["init"].startswith("run:")
    with pytest.raises(InputError, match="holds test_byobnet with 1 channels"):
        pretrain(
            [store.path], tmp_path / "third", init=first, recipe=QUICK,
            changes=["backbone=resnet18"], device="cpu",
        )  # fmt: skip


def test_scratch_is_recorded_as_before(store: Store, tmp_path: Path) -> None:
    pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=1)
    provenance = checkpoint.read_run(tmp_path / "run")["provenance"]
    assert provenance["init"] is None
    assert provenance["initial_weights"] == {"name": "scratch", "sha256": None}
