"""A loss that is not finite: the series are named, and the captured step can be taken again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_models.networks.encoder import Projector
from voco_models.objectives import voco2d
from voco_models.stages.pretraining import pretrain
from voco_models.stages.replay import NOTHING, replay
from voco_models.training.capture import CAPTURE, load_capture
from voco_models.training.train_state import Diverged

RECIPE = replace(QUICK, fit=replace(QUICK.fit, log_every=6, checkpoint_every=6))
"""One row of the history, so that the failure is found steps after it happened."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "stores", random_volumes(5, GRID))


def fail_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a crop infinite in the batch of a step: as a volume with a bad voxel would."""
    seeds: list[int] = []
    crops_and_targets = voco2d.Voco2d.crops_and_targets

    def poisoned(self: voco2d.Voco2d, batch: voco2d.Batch) -> tuple[Tensor, Tensor]:
        crops, targets = crops_and_targets(self, batch)
        if batch.seed not in seeds:
            seeds.append(batch.seed)
        if seeds.index(batch.seed) == step - 1:
            crops[0, 0, 0, 0, 0] = torch.inf
        return crops, targets

    monkeypatch.setattr(voco2d.Voco2d, "crops_and_targets", poisoned)


def test_the_batch_is_named_and_captured(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(3, monkeypatch)
    run = tmp_path / "run"
    with pytest.raises(Diverged, match="step 3: the loss is not finite") as caught:
        pretrain([store.path], run, recipe=RECIPE, device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 1
    assert text.endswith(f"see {run / CAPTURE}")
    capture = load_capture(run / CAPTURE)
    assert (capture.step, capture.cause) == (3, "the loss")
    assert len(capture.names) == RECIPE.batch_size
    for name, index, volume in zip(
        capture.names, capture.items.tolist(), capture.volumes, strict=True
    ):
        assert name == f"series-{index:03d} (row {index} of {store.storage.name})"
        assert name in text
        assert torch.equal(volume, torch.from_numpy(store.read(index)))
    plain = torch.load(run / CAPTURE, weights_only=True)
    assert plain["optimizer"]["state"][0]["step"] == 2

    # The weights before the step are those of a run that stops there.
    monkeypatch.undo()
    pretrain([store.path], tmp_path / "stopped", recipe=RECIPE, device="cpu", max_steps=2)
    before = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["objective"]
    for name, tensor in before.items():
        assert torch.equal(tensor, capture.objective[name]), name


def test_a_replay_needs_no_store_and_finds_the_first_tensor(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    forward = Projector.forward

    def overflow(self: Projector, features: Tensor) -> Tensor:
        return forward(self, features * 1e38 * 10)

    monkeypatch.setattr(Projector, "forward", overflow)
    with pytest.raises(Diverged, match="step 1: "):
        pretrain([store.path], run, recipe=RECIPE, device="cpu")
    shutil.rmtree(store.path)
    found = replay(run / CAPTURE, device="cpu")
    assert (found.step, found.cause, found.same) == (1, "the loss", True)
    assert found.first == "input of student.projector.layers.0"
    assert json.loads(json.dumps(found.to_json()))["captured_losses"]["loss"] == "nan"

    monkeypatch.undo()
    repaired = replay(run / CAPTURE, device="cpu")
    assert (repaired.first, repaired.same) == (NOTHING, False)


def test_a_gradient_that_is_not_finite_is_found_before_the_loss(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    forward = voco2d.Voco2d.forward

    def infinite_gradient(self: voco2d.Voco2d, batch: voco2d.Batch) -> dict[str, Tensor]:
        losses = forward(self, batch)
        bias = self.student.projector.layers[6].bias  # type: ignore[index, union-attr]
        return losses | {"loss": losses["loss"] + (0 * bias).abs().sqrt().sum()}

    monkeypatch.setattr(voco2d.Voco2d, "forward", infinite_gradient)
    with pytest.raises(Diverged, match="step 2: the loss is not finite") as caught:
        pretrain([store.path], run, recipe=RECIPE, device="cpu")
    gradient = "the gradient of student.projector.layers.6.bias"
    assert f"first, at step 1, {gradient}; batch of step 1: series-" in str(caught.value)
    capture = load_capture(run / CAPTURE)
    assert (capture.step, capture.cause) == (1, gradient)
    assert replay(run / CAPTURE, device="cpu").first == gradient.removeprefix("the ")


def test_the_command_replays(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_at(1, monkeypatch)
    run = tmp_path / "run"
    with pytest.raises(Diverged):
        pretrain([store.path], run, recipe=RECIPE, device="cpu")
    assert main(["pretrain", "--replay", str(run / CAPTURE), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["step"] == 1
    assert len(summary["series"]) == RECIPE.batch_size
    assert main(["pretrain", "--replay", str(run / "history.csv")]) == 2
    capsys.readouterr()
    store_words = [str(store.path), "--replay", "capture"]
    for words in (["--out", str(run)], [str(store.path)], store_words):
        with pytest.raises(SystemExit) as caught:
            main(["pretrain", *words])
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("voco pretrain: error: ")
        assert "--replay" in line


def test_what_is_no_capture_is_refused(tmp_path: Path, store: Store) -> None:
    pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=1)
    for file in ("checkpoint.pt", "history.csv", "absent.pt"):
        with pytest.raises(InputError) as caught:
            replay(tmp_path / "run" / file)
        assert "\n" not in str(caught.value)
