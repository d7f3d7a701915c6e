"""`voco pairs` and `voco project --images`: options reach the stages, bad images are one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.command import main
from tests.support.organ_stores import organ_store
from voco_data.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), 2, masked=0)


def test_pairs_options_reach_the_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def make_pairs(source: Any, store: Any, out: Any, *, kind: str, options: Any) -> Any:
        seen.update(source=source, store=store, out=out, kind=kind, options=options)
        return SimpleNamespace(to_json=lambda: {"paired": 3})

    monkeypatch.setattr("voco_data.paired_images.make_pairs", make_pairs)
    words = "pairs archive s3://b/x.zarr --out p --kind phase --layout dicom --ids ids.csv --json"
    assert main(words.split()) == 0
    options = seen.pop("options")
    assert seen == {
        "source": Path("archive"), "store": "s3://b/x.zarr", "out": Path("p"), "kind": "phase",
    }  # fmt: skip
    assert (options.layout, options.ids) == ("dicom", Path("ids.csv"))
    assert json.loads(capsys.readouterr().out) == {"paired": 3}


@pytest.mark.parametrize(
    "words", ["pairs archive x.zarr --out p", "pairs archive x.zarr --out p --kind scout"]
)
def test_a_kind_is_needed(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "images .*: expected a folder of images or a table"),
        (np.full((16, 64), np.nan), "without NaN"),
        (np.zeros((16, 64, 3), np.uint8), "expected a grey image"),
        (np.arange(64 * 16).reshape(64, 16), "expected an image of the series' box, 16 x 64 mm"),
    ],
)
def test_a_bad_image_ends_with_one_line_and_exit_code_2(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: Any, message: str
) -> None:
    if image is not None:
        (tmp_path / "images" / "series-000").mkdir(parents=True)
        np.save(tmp_path / "images" / "series-000" / "coronal.npy", image)
    words = ["project", str(store.path), "--out", str(tmp_path / "run"), "--recipe", "tiny"]
    words += ["--set", "target=image", "--images", str(tmp_path / "images")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("voco project: error: ")
    assert re.search(message, line)
    assert not (tmp_path / "run").exists()
