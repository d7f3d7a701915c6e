"""Files of a run: written whole, loaded without executing code, refused if they do not fit."""

from __future__ import annotations

import json
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from voco_data.errors import InputError, VocoError
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.registry import create_backbone
from voco_models.training import checkpoint
from voco_models.training.history import HISTORY, History, read_history
from voco_models.training.provenance import list_differences, make_provenance

OLD: dict[str, Any] = {
    "stage": "pretrain",
    "recipe": {"fit": {"lr": 0.1, "seed": 0}, "batch_size": 4},
    "stores": [{"name": "a", "volumes": 3}],
    "split": None,
    "init": None,
    "torch": "2.11",
}


def test_saved_values_load_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"step": 3, "weights": {"w": torch.arange(4.0)}, "window": [{"x": 0.1}]})
    payload = checkpoint.load(path)
    assert payload["step"] == 3
    assert payload["window"] == [{"x": 0.1}]
    assert torch.equal(payload["weights"]["w"], torch.arange(4.0))
    assert torch.load(path, weights_only=True)["format"] == checkpoint.FORMAT


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"step": 1})

    def torn(payload: object, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(VocoError, match="No space left on device"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert os.listdir(tmp_path) == ["a.pt"]  # noqa: PTH208


def test_bytes_are_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1]
    )
    checkpoint.save(tmp_path / "a.pt", {"step": 1})
    assert events == ["fsync", "replace", "fsync"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("kind", ["absent", "garbage", "truncated", "evil", "foreign"])
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "truncated":
        checkpoint.save(path, {"weights": torch.zeros(1000)})
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "evil":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"a\.pt: expected") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_backbone_loads_with_its_weights_and_provenance(tmp_path: Path) -> None:
    backbone = create_backbone(TINY_BACKBONE)
    path = checkpoint.save_backbone(tmp_path, backbone, {"stage": "pretrain"})
    for place in (tmp_path, path):
        loaded, provenance = checkpoint.load_backbone(place)
        assert loaded.name == TINY_BACKBONE
        assert provenance == {"stage": "pretrain"}
        for name, value in backbone.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def test_a_backbone_with_other_weights_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save_backbone(tmp_path, create_backbone(TINY_BACKBONE), {})
    payload = checkpoint.load(path)
    payload["weights"].popitem()
    checkpoint.save(path, payload)
    with pytest.raises(InputError, match="expected a backbone"):
        checkpoint.load_backbone(tmp_path)


def test_run_descriptions_read_back(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    checkpoint.write_run(run, {"stage": "pretrain", "notes": []})
    assert checkpoint.read_run(run) == {"stage": "pretrain", "notes": [], "files": None}
    assert json.loads((run / "run.json").read_text())["stage"] == "pretrain"
    with pytest.raises(InputError, match="folder of a voco run"):
        checkpoint.read_run(tmp_path)


def test_differences_name_the_field_and_ignore_versions() -> None:
    assert list_differences(OLD, OLD | {"torch": "9"}) == []
    now = OLD | {"recipe": {"fit": {"lr": 0.2, "seed": 0}, "batch_size": 4, "new": 1}}
    assert list_differences(OLD, now) == [
        "recipe.fit.lr was 0.1, is 0.2",
        "recipe.new was None, is 1",
    ]
    assert len(list_differences(OLD, OLD | {"stores": []})) == 1
    assert len(list_differences(OLD, OLD | {"split": "abc"})) == 1


def test_provenance_is_plain_and_complete() -> None:
    provenance = make_provenance("pretrain", {"sizes": (1, 2), "path": Path("x")}, [], split="abc")
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["recipe"] == {"sizes": [1, 2], "path": "x"}
    assert provenance["torch"] == str(torch.__version__)
    assert {"stage", "stores", "split", "init", "voco", "timm", "commit"} <= set(provenance)


def row(step: int, **parts: float) -> dict[str, float]:
    return {"step": step, "lr": 0.1 / 3, "loss": 1 / step, **parts, "seconds": 0.5}


def test_history_reads_back_exactly(tmp_path: Path) -> None:
    history = History(tmp_path, after=0, every=5, last=100)
    rows = [row(5, zeta=1e-17, alpha=1 / 3), row(10, zeta=2.0, alpha=float("nan"))]
    for line in rows:
        history.append(line)
    header = (tmp_path / HISTORY).read_text().splitlines()[0]
    assert header == "step,lr,loss,alpha,zeta,seconds"
    assert repr(read_history(tmp_path)[0]["alpha"]) == repr(1 / 3)
    assert [line["zeta"] for line in read_history(tmp_path)] == [1e-17, 2.0]
    assert read_history(tmp_path / "absent") == []


def test_history_keeps_what_an_uninterrupted_run_would_have(tmp_path: Path) -> None:
    history = History(tmp_path, after=0, every=5, last=23)
    for step in (5, 10, 15, 17):
        history.append(row(step))
    resumed = History(tmp_path, after=12, every=5, last=23)
    assert [line["step"] for line in read_history(tmp_path)] == [5, 10]
    for step in (15, 20, 23):
        resumed.append(row(step))
    History(tmp_path, after=23, every=5, last=23)
    assert [line["step"] for line in read_history(tmp_path)] == [5, 10, 15, 20, 23]
    History(tmp_path, after=0, every=5, last=23)
    assert read_history(tmp_path) == []


def test_an_incomplete_last_line_of_the_history_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path, after=0, every=5, last=20)
    for step in (5, 10):
        history.append(row(step))
    path = tmp_path / HISTORY
    path.write_text(path.read_text()[:-6])
    assert [line["step"] for line in read_history(tmp_path)] == [5]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk: both refuse a write with an error."""
    path = tmp_path / checkpoint.CHECKPOINT
    checkpoint.save(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(VocoError, match="cannot write it"):
            checkpoint.save(path, {"step": 2, "weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
