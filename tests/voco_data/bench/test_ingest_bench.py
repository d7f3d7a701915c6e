"""The benchmark on a small series: its rows do the same work, and absent libraries are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from voco_data.bench import floor, ingest as table, ours, peers
from voco_data.bench.ingest import Row, bench_ingest
from voco_data.bench.series import write_bench_series
from voco_data.store.spec import FINETUNE, PRETRAIN
from voco_data.volumes.geometry import Box
from voco_data.volumes.hu_histogram import HuHistogram

SMALL = {"slices": 48, "matrix": 96}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_bench_series(folder, **SMALL)
    return folder


def test_ours_fills_two_stores(home: Path, tmp_path: Path) -> None:
    run = ours.fill_stores(home / "rle", tmp_path)
    run()
    run()
    for spec in (PRETRAIN, FINETUNE):
        chunks = sorted((tmp_path / spec.name / "volumes" / "c").glob("*/0/0/0"))
        assert [chunk.parts[-4] for chunk in chunks] == ["0", "1"]
        assert chunks[0].read_bytes() == chunks[1].read_bytes()


def test_the_histogram_of_a_box_is_counted_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = []
    count = HuHistogram.from_box

    def of_box(hu: npt.NDArray[np.int16], box: Box) -> HuHistogram:
        boxes.append(box)
        return count(hu, box)

    monkeypatch.setattr(HuHistogram, "from_box", of_box)
    ours.fill_stores(home / "rle", tmp_path)()  # two stores of one crop policy, and a preview
    assert len(boxes) == 1


def test_the_floor_makes_our_pixels(home: Path, tmp_path: Path) -> None:
    (tmp_path / "floor").mkdir()
    ours.fill_stores(home / "raw", tmp_path / "ours")()
    floor.make_grids(home / "rle", tmp_path / "floor")()
    for spec in (PRETRAIN, FINETUNE):
        chunk = tmp_path / "ours" / spec.name / "volumes" / "c" / "0" / "0" / "0" / "0"
        assert (tmp_path / "floor" / spec.profile).read_bytes() == chunk.read_bytes()


def test_peers_see_the_same_patient(home: Path, tmp_path: Path) -> None:
    made = []
    for peer in (peers.naive, peers.torch_area, peers.simpleitk_linear):
        peer(home / "rle", tmp_path)()
        assert np.load(tmp_path / "96.npy").shape == FINETUNE.grid
        made.append(np.load(tmp_path / "32.npy").astype(float))
    for other in made[1:]:  # noise is averaged by one and picked by the other
        assert np.corrcoef(made[0].ravel(), other.ravel())[0, 1] > 0.9


def test_headers_of_both_ways(home: Path, tmp_path: Path) -> None:
    ours.read_headers(home / "rle", tmp_path)()
    peers.pydicom_headers(home / "rle", tmp_path)()


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(row.name, row.function, row.series, 1) for row in table.ROWS if row.name in WANTED]
    missing = Row("monai", "no_such_module.peer")
    monkeypatch.setattr(table, "ROWS", (*rows, missing))
    monkeypatch.setattr(table, "RATIOS", {k: v for k, v in table.RATIOS.items() if k in RATIOS})
    monkeypatch.setattr(table, "WORKER_REPEATS", 2)
    found = bench_ingest(**SMALL)
    lines = {line["name"]: line for line in found["rows"]}  # type: ignore[attr-defined]
    assert lines["ours"]["median"] > 0
    assert lines["monai"]["median"] is None
    assert lines["monai"]["note"].startswith("not installed")
    ratios = found["ratios"]
    assert set(ratios) == {*RATIOS, "two_workers"}  # type: ignore[call-overload]
    assert ratios["monai"] is None  # type: ignore[index]
    assert ratios["floor"] > 0  # type: ignore[index]


WANTED = ("ours", "floor", "headers", "headers, pydicom")
RATIOS = ("floor", "headers_pydicom", "monai")
