"""`voco bench loader`: the same volumes for all candidates, interleaved repeats, and ratios."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from voco_data.errors import VocoError
from voco_data.store.reader import Store
from voco_models.bench import loader, volumes
from voco_models.bench.runner import describe_machine, make_row, measure_medians
from voco_models.bench.worker import TIMED_BATCHES, WARMUP_BATCHES, time_batches


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> volumes.BenchVolumes:
    return volumes.make_volumes(tmp_path_factory.mktemp("bench"), volumes=5, large=12)


def test_all_formats_hold_the_same_volumes(made: volumes.BenchVolumes) -> None:
    raw = volumes.open_memmap(made.folder)
    assert raw.shape == (5, 32, 192, 192)
    assert len({volume.tobytes() for volume in raw}) == 5
    for path in (made.store, made.store_lz4):
        assert np.array_equal(zarr.open_array(path / "volumes", mode="r")[:], raw)
    files = [np.load(path) for path in volumes.list_npy_files(made.folder)]
    assert np.array_equal(files, raw)
    assert made.lz4_ratio > 1.2


def test_the_large_store_reads_and_its_catalogue_is_of_real_size(
    made: volumes.BenchVolumes,
) -> None:
    store = Store.open(made.large)
    raw = volumes.open_memmap(made.folder)
    for series in store.rows.tolist():
        assert np.array_equal(store.read(series), raw[series % 5])
    assert [len(numbers) for numbers in store.catalogue["instance_numbers"]] == [300] * 12


SECONDS: dict[str, float | None] = {
    "voco": 0.001,
    "voco lz4": 0.002,
    "memmap, DataLoader(2)": 0.006,
    "memmap as float32, DataLoader(2)": 0.005,
    "MONAI PersistentDataset, 2 workers": 0.006,
    "MONAI PersistentDataset, 2 workers, float32": 0.012,
    "MONAI CacheDataset in-process": 0.003,
    "MONAI CacheDataset in-process, float32": 0.002,
    "LitData, 2 workers": None,
    "voco slices": 0.001,
    "memmap slices, DataLoader(2)": 0.004,
    "read memmap": 0.0001,
    "read voco": 0.00011,
    "read voco lz4": 0.00018,
    "voco first batch": 0.1,
}


def test_ratios_count_the_faster_or_the_documented_form_of_a_peer() -> None:
    found = loader.compute_ratios(SECONDS)
    assert found.pop("litdata") is None
    assert found == pytest.approx(
        {
            "memmap_dataloader2": 5,
            "persistent_dataset2": 12,
            "persistent_dataset2_uint8": 6,
            "cache_dataset": 2,
            "cache_dataset_uint8": 3,
            "lz4_memmap_dataloader2": 2.5,
            "slices_memmap_dataloader2": 4,
            "volume_read_memmap": 1.1,
            "volume_read_lz4_memmap": 1.8,
            "first_batch_5000_s": 0.1,
        }
    )


def test_a_row_says_what_is_not_installed() -> None:
    assert make_row("x", None, "ms") == {
        "name": "x", "median": None, "unit": "ms", "note": "not installed",
    }  # fmt: skip
    assert make_row("x", 2.0, "ms") == {"name": "x", "median": 2.0, "unit": "ms"}


def test_the_machine_is_described() -> None:
    found = describe_machine()
    assert found["cores"]
    assert {"processor", "memory_bytes", "python", "torch"} <= set(found)


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    project = Path(loader.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{project}")


COUNTING = """
from pathlib import Path
from voco_models.bench.worker import serve
def main(name, folder):
    log = Path(folder, "order")
    def measure():
        print("noise of a library")
        with log.open("a") as file:
            file.write(name)
        return {name: float(len(log.read_text()))}
    serve(measure)
"""


def test_candidates_measure_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, monkeypatch, counting=COUNTING)
    wanted = {name: ("counting", (name, str(tmp_path))) for name in "ab"}
    found = measure_medians(wanted, tmp_path, repeats=3)
    assert (tmp_path / "order").read_text() == "ab" + "ababab"  # each once to be warm
    assert found == {"a": 5.0, "b": 6.0}  # the middle one of 3, 5, 7 and of 4, 6, 8


def test_batches_that_were_read_ahead_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still for them, and goes on by two seconds for each of the others."""
    now = 0.0

    def batches() -> Iterator[torch.Tensor]:
        nonlocal now
        for number in itertools.count():
            now += 0 if number % (WARMUP_BATCHES + TIMED_BATCHES) < WARMUP_BATCHES else 2
            yield torch.zeros(3, dtype=torch.uint8)

    monkeypatch.setattr("voco_models.bench.worker.time.perf_counter", lambda: now)
    measure = time_batches("x", batches())
    assert [measure(), measure()] == [{"x": 2.0}, {"x": 2.0}]


def test_a_library_that_is_not_installed_has_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, monkeypatch, lacking="import no_such_library_here", counting=COUNTING)
    wanted = {
        "lacking": ("lacking", ("x",)),
        "a": ("counting", ("a", str(tmp_path))),
    }
    assert measure_medians(wanted, tmp_path, repeats=1) == {"lacking": None, "a": 2.0}


def test_a_candidate_that_fails_ends_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, monkeypatch, failing="def main(*_):\n    raise ValueError('no room')")
    with pytest.raises(VocoError, match="failing ended: ValueError: no room"):
        measure_medians({"failing": ("failing", ("x",))}, tmp_path, repeats=1)


def test_our_candidates_run(made: volumes.BenchVolumes, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(made.folder, monkeypatch)
    folder, store = str(made.folder), str(made.store)
    found = measure_medians(
        {
            "voco": (loader.OURS, ("volumes", folder, store)),
            "read": (loader.OURS, ("read", folder, store, str(made.store_lz4))),
            "slices": (loader.OURS, ("slices", folder, store)),
            "first": (loader.OURS, ("first", folder, str(made.large))),
        },
        made.folder,
        repeats=1,
    )
    ours = {name for name in SECONDS if name.startswith(("voco", "read"))}
    assert set(found) == ours - {"voco lz4"}
    assert all(value is not None and value > 0 for value in found.values())
