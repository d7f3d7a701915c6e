"""`voco run verify`: whatever a training has written, its loss or change is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from tests.support.organ_stores import organ_store
from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK
from tests.voco_models.stages.test_projection import RECIPE as PROJECTION
from voco_data.errors import InputError
from voco_data.withdrawal.records import Withdrawal, Withdrawals, hash_file
from voco_data.withdrawal.taint import mark_tainted
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetuning import finetune
from voco_models.stages.pretraining import pretrain
from voco_models.stages.projection import project
from voco_models.tracking.pins import PINS
from voco_models.tracking.run_verification import verify_runs
from voco_models.training import TrainState, checkpoint

LATER = {"run.json", ".lock", "tensorboard", "evaluations.json", "metrics.json", "report.html"}
"""Files of runs that may change after the end, and what is no file of a run."""
STAGES = ("pretrain", "finetune", "project")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small finished run of each stage, and the stores beside it."""
    folder = tmp_path_factory.mktemp("made")
    volumes = make_store(folder / "stores" / "pretrain", random_volumes(5, GRID))
    pretrain([volumes.path], folder / "pretrain", recipe=QUICK, device="cpu")
    store, labels = small_cohort(folder / "stores" / "finetune")
    finetune(store, labels, folder / "finetune", recipe=RECIPE, device="cpu")
    evaluate(folder / "finetune")
    organs = organ_store(folder / "stores" / "organs", 6, masked=5)
    project([organs.path], folder / "project", recipe=PROJECTION, device="cpu")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """The three runs again, elsewhere."""
    for stage in STAGES:
        shutil.copytree(made / stage, tmp_path / stage)
    return tmp_path


def problems(*folders: Path) -> list[str]:
    return [line for run in verify_runs(folders).runs for line in run.problems]


def files_of(run: Path) -> list[str]:
    return sorted(
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in LATER and path.name[0] != "."
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_that_a_stage_writes_has_a_digest(made: Path, stage: str) -> None:
    run = made / stage
    recorded = checkpoint.read_run(run)["files"]
    pages = ["report.html"] if stage == "pretrain" else []
    assert sorted(recorded) == sorted([*files_of(run), *pages])
    for name, values in recorded.items():
        path = run / name
        assert values == {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def test_whole_runs_are_one_line_each(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(made / stage) for stage in STAGES]
    assert main(["run", "verify", *words]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "stage", "result", "files", "digests"]
    assert [line.split()[:3] for line in lines] == [
        [word, stage, "ok"] for word, stage in zip(words, STAGES, strict=True)
    ]
    assert main(["run", "verify", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert [run["digests"] for run in told["runs"]] == [True] * 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def clear(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "missing"),
    "torn": (tear, "torn"),
    "empty": (clear, "torn"),
    "changed": (flip, "changed"),
    "longer": (lengthen, "changed"),
    "folder": (replace_by_folder, "unreadable"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_each_damage_of_each_file_is_named(runs: Path, stage: str, kind: str) -> None:
    damage, word = DAMAGES[kind]
    run = runs / stage
    for name in checkpoint.read_run(run)["files"]:
        path = run / name
        whole = path.read_bytes()
        damage(path)
        (line,) = problems(run)
        assert line.startswith(f"{path}: {word}")
        if path.is_dir():
            path.rmdir()
        path.write_bytes(whole)
    assert problems(run) == []


def test_a_fault_is_exit_code_1_and_the_other_runs_are_checked(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tear(runs / "finetune" / "fold-1" / "checkpoint.pt")
    (runs / "project" / "networks.safetensors").unlink()
    (runs / "project" / "history.csv").unlink()
    assert main(["run", "verify", *(str(runs / stage) for stage in STAGES), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    results = [run["result"] for run in told["runs"]]
    assert results[0] == "ok"
    assert results[1].startswith("fold-1/checkpoint.pt: torn, ")
    assert results[2] == "history.csv: missing (and 1 more)"
    assert len(told["problems"]) == 3


def edit(run: Path, **values: Any) -> None:
    """Change entries of run.json by hand."""
    description = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(description | values))


@pytest.mark.parametrize(
    "values",
    [
        {"stage": "finetune"}, {"notes": ["nothing"]}, {"digest": None}, {"digest": "0" * 64},
        {"files": {}}, {"files": []}, {"files": "all"}, {"files": {"checkpoint.pt": 3}},
        {"files": {"../x": {"bytes": 1, "sha256": "0"}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}},
        {"files": {"history.csv": {"bytes": "many", "sha256": 3}}},
    ],
)  # fmt: skip
def test_an_edit_of_the_description_is_noticed(runs: Path, values: dict[str, Any]) -> None:
    edit(runs / "pretrain", **values)
    (line, *_) = problems(runs / "pretrain")
    assert line.startswith(f"{runs / 'pretrain' / 'run.json'}: changed")


def test_a_lost_or_torn_description_is_noticed(runs: Path) -> None:
    (runs / "project" / "run.json").write_text("[" * 100_000)
    assert problems(runs / "project") == [f"{runs / 'project' / 'run.json'}: unreadable"]
    tear(runs / "pretrain" / "run.json")
    (runs / "finetune" / "run.json").unlink()
    assert problems(runs / "pretrain", runs / "finetune") == [
        f"{runs / 'pretrain' / 'run.json'}: unreadable",
        f"{runs / 'finetune' / 'run.json'}: missing",
    ]


def test_a_folder_that_is_no_run_is_refused_before_anything(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "other").mkdir()
    for other in ("other", "absent"):
        assert main(["run", "verify", str(runs / "pretrain"), str(runs / other)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{runs / other}: expected the folder of a voco run" in err
        assert len(err.splitlines()) == 1
    assert main(["run", "verify", str(runs / "pretrain" / "run.json")]) == 2


def test_what_comes_later_is_no_fault(runs: Path) -> None:
    """An evaluation elsewhere, the mark of a forgotten patient, files of the user."""
    run = runs / "finetune"
    evaluate(run, runs / "results", again=True)
    mark_tainted(run, "a" * 64, "2026-03-01T03:00:00Z")
    (run / "notes.txt").write_text("mine")
    (run / "tensorboard").mkdir()
    evaluate(run, again=True)
    assert problems(run) == []


def test_results_of_an_evaluation_are_checked(runs: Path) -> None:
    run = runs / "finetune"
    (run / "report.html").unlink()
    text = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(text.replace("0", "1", 1))
    assert problems(run) == [
        f"{run / 'metrics.json'}: changed since the test set was opened",
        f"{run / 'report.html'}: missing",
    ]
    tear(run / "evaluations.json")
    assert any(str(run / "evaluations.json") in line for line in problems(run))


def test_a_file_without_a_forgotten_patient_is_no_fault_but_its_former_state_is(
    runs: Path,
) -> None:
    run = runs / "finetune"
    path = run / "predictions.parquet"
    whole, before = path.read_bytes(), hash_file(path)
    lengthen(path)
    entry = Withdrawal("a" * 64, "2026-03-01T03:00:00Z")
    entry.files[path.name] = {"before": before, "after": hash_file(path)}
    Withdrawals((entry,)).write(run)
    assert problems(run) == []
    (run / "report.html").unlink()  # the page named the patient
    assert problems(run) == []
    path.write_bytes(whole)
    assert "holds a patient who was forgotten" in problems(run)[0]
    (run / "withdrawals.json").write_text("{")
    assert "withdrawals.json" in problems(run)[0]


def test_the_checkpoint_that_retention_removes_is_no_fault(runs: Path) -> None:
    (runs / "pretrain" / "checkpoint.pt").unlink()
    assert problems(runs / "pretrain") == [f"{runs / 'pretrain' / 'checkpoint.pt'}: missing"]
    (runs / PINS).write_text("{}")
    (run,) = verify_runs([runs / "pretrain"]).runs
    assert run.result == "ok, without checkpoint.pt, which voco retention removes"


def make_older(run: Path) -> None:
    """As a version without digests wrote it."""
    description = json.loads((run / "run.json").read_text())
    del description["files"], description["digest"]
    (run / "run.json").write_text(json.dumps(description))
    for path in run.rglob("checkpoint.pt"):
        payload = checkpoint.load(path)
        del payload["history"]
        checkpoint.save(path, payload)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_an_older_version_is_read(runs: Path, stage: str) -> None:
    run = runs / stage
    names = sorted(checkpoint.read_run(run)["files"])
    make_older(run)
    (found,) = verify_runs([run]).runs
    assert found.result.startswith("ok, of an older version without digests")
    assert not found.digests
    assert found.files == len(names)
    for name in names:
        whole = (run / name).read_bytes()
        tear(run / name)
        if (run / name).suffix != ".csv":  # half a table may be a table
            assert problems(run), name
        (run / name).write_bytes(b"\xff\x00" * 20)
        assert any(str(run / name) in line for line in problems(run)), name
        (run / name).write_bytes(whole)


def test_a_finished_run_of_an_older_version_lacks_no_file(runs: Path) -> None:
    run = runs / "finetune"
    make_older(run)
    (run / "fold-0" / "checkpoint.pt").unlink()
    (run / "decision.json").unlink()
    lines = problems(run)
    assert f"{run / 'fold-0' / 'checkpoint.pt'}: missing" in lines
    assert f"{run / 'decision.json'}: missing" in lines


def test_a_run_that_has_not_ended_has_no_digests(made: Path, tmp_path: Path) -> None:
    store, labels = small_cohort(tmp_path / "stores")
    run = tmp_path / "run"
    finetune(store, labels, run, recipe=RECIPE, device="cpu", max_steps=3)
    (found,) = verify_runs([run]).runs
    assert found.result == "ok, has not ended: its files can be read"
    tear(run / "fold-0" / "checkpoint.pt")
    assert len(problems(run)) == 1


class Killed:
    """A monitor that ends the process at step 5, as a kill does."""

    every = 5

    def observe(self, state: TrainState) -> None:
        raise KeyboardInterrupt


def test_a_resumed_run_that_is_killed_has_no_stale_digests(made: Path, tmp_path: Path) -> None:
    """Its files have changed since they were written, and that is no damage."""
    store, run = next((made / "stores/pretrain").rglob("*.zarr")), tmp_path / "run"
    pretrain([store], run, recipe=QUICK, device="cpu", max_steps=3)
    assert verify_runs([run]).runs[0].result == "ok"
    with pytest.raises(KeyboardInterrupt):
        pretrain([store], run, recipe=QUICK, device="cpu", resume=True, monitors=[Killed()])
    assert checkpoint.read_run(run)["files"] is None
    with (run / "history.csv").open("a") as file:
        file.write("6,0.0")  # torn
    (found,) = verify_runs([run]).runs
    assert found.result == "ok, has not ended: its files can be read"
    pretrain([store], run, recipe=QUICK, device="cpu", resume=True)
    assert verify_runs([run]).runs[0].result == "ok"


def test_another_recipe_does_not_take_the_digests(made: Path, runs: Path) -> None:
    """A resume that is refused changes nothing."""
    store, run = next((made / "stores/pretrain").rglob("*.zarr")), runs / "pretrain"
    other = replace(QUICK, fit=replace(QUICK.fit, lr=0.5))
    with pytest.raises(InputError, match="cannot resume"):
        pretrain([store], run, recipe=other, device="cpu", resume=True)
    assert verify_runs([run]).runs[0].result == "ok"


def test_a_retraining_is_checked_with_its_runs(runs: Path) -> None:
    (runs / PINS).write_text("{}")
    found = verify_runs([runs]).runs
    assert [Path(run.run).name for run in found] == [runs.name, "finetune", "pretrain", "project"]
    assert found[0].stage == "retraining"
    assert any(PINS in line for line in found[0].problems)
    assert [run.result for run in found[1:]] == ["ok"] * 3


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_file_is_not_resumed_from(made: Path, runs: Path, stage: str) -> None:
    """A lost one is made again; a changed one might be wrong in all that follows."""

    def resume() -> None:
        if stage == "finetune":
            store, labels = made / "stores/finetune", made / "stores/finetune/train.csv"
            store = next(path for path in store.rglob("*.zarr"))
            finetune(store, labels, runs / stage, recipe=RECIPE, device="cpu", resume=True)
        elif stage == "pretrain":
            store = next((made / "stores/pretrain").rglob("*.zarr"))
            pretrain([store], runs / stage, recipe=QUICK, device="cpu", resume=True)
        else:
            store = next((made / "stores/organs").rglob("*.zarr"))
            project([store], runs / stage, recipe=PROJECTION, device="cpu", resume=True)

    run = runs / stage
    resume()
    assert problems(run) == []
    name = {
        "pretrain": "backbone.pt", "finetune": "decision.json", "project": "networks.safetensors"
    }[stage]  # fmt: skip
    flip(run / name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"cannot resume: .*changed since the run ended"):
        resume()
    assert {path: path.read_bytes() for path in before} == before
    (run / name).unlink()
    resume()
    assert problems(run) == []


def test_an_absurd_step_is_one_line_of_the_command(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended with exit code 0: the run seemed to be finished."""
    store, run = next((made / "stores/pretrain").rglob("*.zarr")), tmp_path / "run"
    changes = (
        "fit.total_steps=4", "fit.warmup_steps=1", "batch_size=3", "voco.projector_width=16",
        "voco.embedding=8", "voco.slice_stride=2",
    )  # fmt: skip
    words = ["pretrain", str(store), "--out", str(run), "--recipe", "tiny"]
    words += [word for change in changes for word in ("--set", change)]
    assert main([*words, "--max-steps", "2"]) == 0
    saved = checkpoint.load(run / "checkpoint.pt")
    make_older(run)
    checkpoint.save(run / "checkpoint.pt", saved | {"step": 10**9})
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [each for each in err.splitlines() if "error:" in each]
    assert "checkpoint.pt: step: expected at most the 4 of the recipe, got 1000000000" in line
    checkpoint.save(run / "checkpoint.pt", saved)
    assert main([*words, "--resume"]) == 0
    assert main(["run", "verify", str(run)]) == 0
