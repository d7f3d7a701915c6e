"""The `voco` command: what reaches the stages, what is printed where, and the exit codes."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from flows.command import main
from flows.command_options import RESIDENCES
from flows.retries import PRETRAINED
from flows.summary import flatten, to_json_values
from tests.support.small_finetune import grades_of, write_labels
from tests.support.small_stores import make_store, random_volumes
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreBusy
from voco_data.selection.split_file import read_split
from voco_data.storage.local import LocalStorage
from voco_models.data.resident import Residence
from voco_models.training import checkpoint

Replace = Callable[..., dict[str, Any]]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a stand-in where a stage is. It takes exactly what the stage takes.

    Returns the dictionary that will hold the arguments of the call.
    """

    def put(
        module: str,
        name: str,
        summary: Any = None,
        act: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        seen: dict[str, Any] = {}

        def stage(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            seen.update(bound.arguments)
            act()
            return SimpleNamespace(to_json=lambda: dict(summary or {"done": 1}))

        monkeypatch.setattr(f"{module}.{name}", stage)
        return seen

    return put


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# --- options ----------------------------------------------------------------------------------


def test_preprocess_defaults_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_data.ingest", "preprocess")
    assert main(["preprocess", "archive", "--root", "stores"]) == 0
    options = seen.pop("options")
    assert seen == {"source": Path("archive"), "root": Path("stores"), "changes": {}}
    assert asdict(options) == {
        "layout": "auto",
        "specs": ("pretrain", "finetune"),
        "spec_file": None,
        "workers": None,
        "dask": None,
        "boxes": None,
        "ids": None,
        "uneven": None,
        "keep_ids": False,
        "burned_in": "usual",
        "deep": False,
        "wait": 0.0,
        "include": (),
        "exclude": (),
        "prune": False,
        "yes": False,
        "skip_unchanged": False,
        "progress": True,
    }


def test_preprocess_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_data.ingest", "preprocess")
    words = (
        "--layout ratic --spec finetune --spec pretrain --workers 3 --keep-ids --deep --wait 2.5 "
        "--include *.dcm --include b* --exclude c* --boxes b.csv --uneven resample "
        "--burned-in strict --prune --yes --skip-unchanged"
    )
    assert main(["preprocess", "archive", "--root", "stores", *words.split()]) == 0
    options = seen["options"]
    assert options.layout == "ratic"
    assert options.specs == ("finetune", "pretrain")
    assert options.workers == 3
    assert options.keep_ids is True
    assert options.burned_in == "strict"
    assert (options.prune, options.yes, options.skip_unchanged) == (True, True, True)
    assert options.boxes == Path("b.csv")
    assert options.uneven == "resample"
    assert options.deep is True
    assert options.wait == 2.5
    assert options.include == ("*.dcm", "b*")
    assert options.exclude == ("c*",)


def test_preprocess_takes_a_spec_file_and_a_cluster(replace: Replace) -> None:
    seen = replace("voco_data.ingest", "preprocess")
    words = "preprocess a --root r --spec-file s.json --dask tcp://127.0.0.1:8786"
    assert main(words.split()) == 0
    options = seen["options"]
    assert options.spec_file == Path("s.json")
    assert options.dask == "tcp://127.0.0.1:8786"


def test_pretrain_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_models.stages", "pretrain")
    words = "pretrain a.zarr b.zarr --out run --recipe tiny --max-steps 7 --resume"
    assert main(words.split()) == 0
    assert seen["stores"] == [Path("a.zarr"), Path("b.zarr")]
    assert seen["out"] == Path("run")
    assert (seen["recipe"], seen["max_steps"], seen["resume"]) == ("tiny", 7, True)
    assert seen["changes"] == ()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_changes_of_a_recipe_reach_the_stage(replace: Replace, stage: str) -> None:
    seen = replace("voco_models.stages", stage)
    words = f"{stage} a.zarr --out run --recipe mine.toml --set a.b=1 --set c=[1,2]".split()
    assert main(words + ["--labels", "l"] * (stage == "finetune")) == 0
    assert seen["recipe"] == "mine.toml"
    assert seen["changes"] == ("a.b=1", "c=[1,2]")


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("pretrain a.zarr --recipe tinny", "expected one of default, tiny"),
        ("pretrain a.zarr --recipe none.toml", "none.toml: cannot be read (No such file"),
        ("pretrain a.zarr --recipe tiny --set fit.lrr=1", "did you mean fit.lr?"),
        ("finetune a.zarr --labels l --recipe tiny --set lr=fast", "lr: expected a number"),
        ("finetune a.zarr --labels l --recipe tiny --set epochs=0", "epochs must be >= 1, got 0"),
    ],
)
def test_a_bad_recipe_is_one_line_and_exit_code_2(
    words: str, about: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "stores", random_volumes(2, (2, 48, 48)))
    run = tmp_path / "run"
    arguments = words.replace("a.zarr", str(store.path)).split()
    assert main([*arguments, "--out", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert about in err
    assert err.count("\n") == 1
    assert not run.exists()


def test_finetune_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_models.stages", "finetune")
    words = (
        "finetune a.zarr --labels train.csv --out run --init old --recipe tiny --max-steps 7 "
        "--resume --allow-unlabelled"
    )
    assert main(words.split()) == 0
    assert (seen["store"], seen["labels"]) == (Path("a.zarr"), Path("train.csv"))
    assert (seen["out"], seen["init"], seen["recipe"]) == (Path("run"), "old", "tiny")
    assert (seen["max_steps"], seen["resume"], seen["allow_unlabelled"]) == (7, True, True)


def test_split_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_data.selection", "update_split")
    words = "split a.zarr --labels train.csv --out s.json --test-share 0.3 --folds 4 --seed 7"
    assert main(words.split()) == 0
    assert seen == {
        "store": Path("a.zarr"),
        "out": Path("s.json"),
        "labels": Path("train.csv"),
        "test_share": 0.3,
        "n_folds": 4,
        "seed": 7,
        "pseudonymise": None,
    }
    for words in ("split a.zarr --out s.json", "split a.zarr --all --out s.json"):
        assert main(words.split()) == 0
        assert (seen["labels"], seen["n_folds"]) == (None, None)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_who_is_held_out_reaches_the_stage(replace: Replace, stage: str) -> None:
    seen = replace("voco_models.stages", stage)
    words = [stage, "a.zarr", "--out", "run"] + ["--labels", "l"] * (stage == "finetune")
    assert main(words) == 0
    assert (seen["split"], seen["transductive"]) == (None, False)
    assert main([*words, "--split", "s.json", "--transductive"]) == 0
    assert (seen["split"], seen["transductive"]) == (Path("s.json"), True)


def test_split_makes_a_file_and_appends_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "stores", random_volumes(20, (2, 4, 4)))
    ids = sorted(store.catalogue["patient_id"])
    out, some = tmp_path / "split.json", tmp_path / "some.csv"
    write_labels(some, ids[:15], grades_of(15))
    words = ["split", str(store.path), "--out", str(out), "--json"]
    assert main([*words, "--labels", str(some)]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["patients"], first["added"], first["split"]) == (15, 15, str(out))
    groups = read_split(out).groups
    assert main(words) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (second["patients"], second["added"]) == (20, 5)
    assert groups.items() <= read_split(out).groups.items()


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("split none.zarr --out s.json", "none.zarr"),
        ("split STORE --labels none.csv --out s.json", "cannot be read"),
        ("split STORE --folds 1 --out s.json", "2 to 1000 folds"),
        ("split STORE --folds 1000000000 --out s.json", "2 to 1000 folds"),
        ("split STORE --folds 9 --out s.json", "4 patients are too few"),
        ("pretrain STORE --recipe tiny --split none.json --out run", "cannot read the split"),
        ("pretrain STORE --recipe tiny --transductive --out run", "give --split"),
        ("pretrain STORE --recipe tiny --set selection.layouts=['x'] --out run", "the layout x"),
        ("pretrain STORE --recipe tiny --set selection.weights={a=0.0} --out run", "above 0"),
        ("pretrain STORE --recipe tiny --set selection.weights=3 --out run", "a table of numbers"),
    ],
)
def test_a_bad_split_or_selection_is_one_line_and_exit_code_2(
    words: str,
    about: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = make_store(tmp_path / "stores", random_volumes(4, (2, 48, 48)))
    monkeypatch.chdir(tmp_path)
    assert main(words.replace("STORE", str(store.path)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert about in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "s.json").exists()


def test_labels_join_through_the_key_of_the_stores_root(replace: Replace, tmp_path: Path) -> None:
    seen = replace("voco_models.stages", "finetune")
    words = ["finetune", str(tmp_path / "a.zarr"), "--labels", "l", "--out", "run"]
    assert main(words) == 0
    assert seen["pseudonymise"] is None
    hidden = pseudonyms.load_or_make(LocalStorage(tmp_path))
    assert main(words) == 0
    assert seen["pseudonymise"]("patient 7") == hidden("patient", "patient 7")


def test_export_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_models.stages", "export_onnx")
    assert main(["export", "run", "--out", "model.onnx", "--fold", "1"]) == 0
    assert seen == {"run": Path("run"), "out": Path("model.onnx"), "fold": 1, "int8": False}
    assert main(["export", "run", "--out", "model.onnx", "--int8"]) == 0
    assert (seen["fold"], seen["int8"]) == (None, True)


def test_evaluate_options_reach_the_stage(replace: Replace) -> None:
    seen = replace("voco_models.stages", "evaluate")
    assert main(["evaluate", "run", "--out", "there", "--again"]) == 0
    assert seen == {"run": Path("run"), "out": Path("there"), "again": True, "resume": False}


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("", "COMMAND"),
        ("conquer", "conquer"),
        ("preprocess archive", "--root"),
        ("preprocess --root r", "SOURCE"),
        ("preprocess a --root r --layout tar", "tar"),
        ("preprocess a --root r --workers 0", "whole number above 0"),
        ("preprocess a --root r --workers 2 --dask local", "not allowed with"),
        ("preprocess a --root r --spec pretrain --spec-file f", "not allowed with"),
        ("preprocess a --root r --wait -1", "--wait"),
        ("preprocess a --root r --wait nan", "--wait"),
        ("store", "ACTION"),
        ("store gc", "ROOT"),
        ("store gc r --keep-runs -1", "whole number"),
        ("store export s", "ROW"),
        ("store export s 1.5", "whole number"),
        ("store forget r", "PATIENT"),
        ("split a.zarr", "--out"),
        ("split a.zarr --out s --test-share 1", "between 0 and 1"),
        ("split a.zarr --out s --labels l --all", "not allowed with"),
        ("pretrain --out run", "STORE"),
        ("pretrain a.zarr --out run --max-steps 0", "--max-steps"),
        ("finetune a.zarr --out run", "--labels"),
        ("finetune a.zarr --labels l --out run --res", "--res"),
        ("evaluate", "RUN"),
        ("guess run a --out b", "guess"),
        ("predict run a", "--out"),
        ("predict run a --out s3://b/c", "path of this machine"),
        ("export run --out m.onnx --fold -1", "whole number"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    words: str, about: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("voco")
    assert about in err
    assert "--help" in err


# --- what is printed ---------------------------------------------------------------------------


def test_json_is_one_object_on_the_last_line(
    replace: Replace, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        print("a library talks")
        logging.getLogger("voco_data.ingest").info("a stage talks")

    replace("voco_data.ingest", "preprocess", {"stored": 2, "p": Path("a"), "x": float("nan")}, act)
    assert main(["preprocess", "a", "--root", "r", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {"stored": 2, "p": "a", "x": None}
    assert err == "a stage talks\n"


def test_people_get_a_line_an_entry(replace: Replace, capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"stored": 2, "stores": {"pretrain": "p.zarr"}, "loss": 0.123456789, "notes": []}
    replace("voco_data.ingest", "preprocess", summary)
    assert main(["preprocess", "a", "--root", "r"]) == 0
    assert capsys.readouterr().out == (
        "stored           2\nstores.pretrain  p.zarr\nloss             0.123457\n"
    )


def test_people_get_a_table_of_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [
        {
            "name": "a",
            "path": "/r/a",
            "bytes": 12_345_678,
            "grid": [1, 2],
            "spec": {"crop": "none"},
        },
        {"name": "bc", "path": "/r/bc", "bytes": 9, "grid": [30, 40], "spec": {}},
    ]
    found = {"stores": stores, "problems": []}
    monkeypatch.setattr("voco_data.maintenance.list_stores", lambda root: found)
    assert main(["store", "ls", "r"]) == 0
    assert capsys.readouterr().out == (
        "name  bytes    grid\na     12.3 MB  1x2\nbc    9 B      30x40\n"
    )


def test_a_store_with_problems_is_no_success(
    replace: Replace, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(
        "voco_data.maintenance",
        "verify_store",
        {"series": 2, "problems": ("series x: torn",)},
    )
    assert main(["store", "verify", "s", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["series x: torn"]
    replace("voco_data.maintenance", "verify_store", {"series": 2, "problems": ()})
    assert main(["store", "verify", "s"]) == 0


def test_warnings_say_so(replace: Replace, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        logging.getLogger("voco_data.ingest").warning("nothing was stored")

    replace("voco_data.ingest", "preprocess", act=act)
    assert main(["preprocess", "a", "--root", "r"]) == 0
    assert capsys.readouterr().err == "warning: nothing was stored\n"


def test_plain_and_flatten() -> None:
    nested = {"a": {"b": (Path("x"), float("inf"))}, 3: 1.5}
    assert to_json_values(nested) == {"a": {"b": ["x", None]}, "3": 1.5}
    assert flatten(to_json_values(nested)) == {"a.b": ["x", None], "3": 1.5}


# --- exit codes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("source: no such\nfolder"), 2, "source: no such folder"),
        (StoreBusy("store: another run fills it"), 1, "store: another run fills it"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "voco[ingest,train"),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: Exception, code: int, line: str, replace: Replace, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("voco_data.ingest", "preprocess", act=raiser(error))
    assert main(["preprocess", "a", "--root", "r", "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("voco preprocess: error: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError(), ModuleNotFoundError("no", name="voco_data.storage.locks")]
)
def test_a_bug_keeps_its_traceback(bug: Exception, replace: Replace) -> None:
    replace("voco_data.ingest", "preprocess", act=raiser(bug))
    with pytest.raises(type(bug)):
        main(["preprocess", "a", "--root", "r"])


def test_debug_shows_the_traceback_of_any_error(replace: Replace) -> None:
    replace("voco_data.ingest", "preprocess", act=raiser(InputError("no")))
    with pytest.raises(InputError):
        main(["--debug", "preprocess", "a", "--root", "r"])


def test_ctrl_c_is_130_and_one_line(replace: Replace, capsys: pytest.CaptureFixture[str]) -> None:
    replace("voco_data.ingest", "preprocess", act=lambda: os.kill(os.getpid(), signal.SIGINT))
    assert main(["preprocess", "a", "--root", "r"]) == 130
    assert capsys.readouterr().err == (
        "voco preprocess: stopped; what is finished stays, a rerun goes on\n"
    )


def test_names_that_the_command_repeats_are_those_of_the_stages() -> None:
    """The command starts without torch, so it writes these down; here both can be loaded."""
    assert get_args(Residence) == RESIDENCES
    assert checkpoint.CHECKPOINT == PRETRAINED
