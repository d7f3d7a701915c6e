"""The digest names the store: every field counts, and the text that is hashed is fixed."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest

from voco_data.errors import InputError
from voco_data.store import spec
from voco_data.store.chunks.codec import Compression
from voco_data.store.spec import (
    FINETUNE,
    LOCALISE,
    PRETRAIN,
    StoreSpec,
    distinct_specs,
    read_spec_file,
)

OTHER = {
    "profile": "other",
    "grid": (16, 64, 64),
    "window_level_hu": 40.0,
    "window_width_hu": 350.0,
    "crop": "body",
    "margin_mm": (0.0, 0.0, 0.0),
    "compression": "lz4",
    "min_slices": 9,
    "min_extent_mm": 21.0,
    "spacing_tolerance": 0.1,
    "uneven_slices": "resample",
    "axis_tolerance_deg": 4.0,
    "algorithm_version": 6,
}
ONLY_VALUE = {"resampling", "quantisation"}


def test_the_two_grids_of_the_paper() -> None:
    assert PRETRAIN.grid == (32, 192, 192)
    assert FINETUNE.grid == (96, 256, 256)


def test_the_built_in_stores_keep_their_names() -> None:
    """Another digest is another store: all series would be read again."""
    assert [spec.name for spec in (PRETRAIN, FINETUNE, LOCALISE)] == [
        "pretrain-28157ad434e2.zarr",
        "finetune-da81869b28ee.zarr",
        "localise-dcd7ab637c4a.zarr",
    ]


def test_a_network_can_halve_the_grid_of_the_localisation_store() -> None:
    """Twice along z and four times in the plane, from 64 voxels or more; one decode fills all."""
    z, y, x = LOCALISE.grid
    assert (z % 4, y % 16, x % 16) == (0, 0, 0)
    assert min(LOCALISE.grid) >= 64
    assert LOCALISE.volume_rules == PRETRAIN.volume_rules == FINETUNE.volume_rules


@pytest.mark.parametrize("name", [f.name for f in fields(StoreSpec) if f.name not in ONLY_VALUE])
def test_every_field_changes_the_digest(name: str) -> None:
    assert replace(PRETRAIN, **{name: OTHER[name]}).digest != PRETRAIN.digest


def test_digest_is_sha256_of_sorted_compact_json() -> None:
    data = json.loads(PRETRAIN.canonical_json())
    assert set(data) == {f.name for f in fields(StoreSpec)}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert PRETRAIN.digest == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert PRETRAIN.name == f"pretrain-{PRETRAIN.digest}.zarr"


def test_spec_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "specs.json"
    path.write_text(f"[{PRETRAIN.canonical_json()}, {FINETUNE.canonical_json()}]")
    assert read_spec_file(path) == [PRETRAIN, FINETUNE]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "3",
        '{"profile": "a"}',
        '{"profile": "a", "grid": [1, 2]}',
        '{"profile": "../a", "grid": [1, 2, 3]}',
        '{"profile": "a", "grid": [1, 2, 3], "colour": 1}',
        '{"profile": "a", "grid": [1, 2, 3], "window_width_hu": 0}',
        '{"profile": "a", "grid": [1, 2, 3], "compression": "zstd"}',
        '{"profile": "a", "grid": [1, 2, 3], "window_level_hu": NaN}',
        '{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": Infinity}',
        '{"profile": "a", "grid": [1, 2, 3], "margin_mm": [1, 2, Infinity]}',
        '{"profile": "a", "grid": [1, 2, 3], "crop": ["body"]}',
        '{"profile": "a", "grid": [1, 2, 3], "min_slices": "8"}',
        '{"profile": "a", "grid": "abc"}',
        '{"profile": "a", "grid": [1, 2, 3], "margin_mm": [1, 2, "x"]}',
        '{"profile": "a", "grid": [1, 2, 3], "margin_mm": [1, 2, true]}',
        '{"profile": "a", "grid": [1, 2, 3], "margin_mm": [1, 2, 1e9]}',
        '{"profile": "a", "grid": [1, 2, 3], "min_slices": true}',
        '{"profile": "a", "grid": [1, 2, 3], "min_slices": 8.0}',
        '{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": true}',
        '{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": 1e400}',
        '{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": "20"}',
        '{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": null}',
        '{"profile": "a", "grid": [1, 2, 3], "window_width_hu": 1e-300}',
        '{"profile": "a", "grid": [1, 2, 3], "window_level_hu": 1e300}',
        '{"profile": "a", "grid": [1, 2, 3], "window_level_hu": 20000}',
        '{"profile": "a", "grid": [1, 2, 3], "window_level_hu": -2000}',
        '{"profile": "a", "grid": [1, 2, 3], "algorithm_version": 4}',
        '{"profile": "a", "grid": [1, 2, 3], "algorithm_version": 99}',
        '{"profile": "a", "grid": [1, 2, 3], "algorithm_version": true}',
        '{"profile": "a", "grid": [1, 2, 3], "profile": "b"}',
        '{"profile": "a", "grid": [true, 2, 3]}',
        '{"profile": "a", "grid": [1.0, 2, 3]}',
        '{"profile": "a", "grid": [4096, 4096, 4096]}',
        '{"profile": "a", "grid": {"z": 1}}',
        f'{{"profile": "a", "grid": [{"9" * 400}, 2, 3]}}',
        f'{{"profile": "a", "grid": [{"9" * 5000}, 2, 3]}}',
        f'{{"profile": "a", "grid": [1, 2, 3], "min_extent_mm": {"9" * 400}}}',
        "[" * 100_000 + "]" * 100_000,
        json.dumps([{"profile": f"p{i}", "grid": [1, 2, 3]} for i in range(64)]),
    ],
)
def test_bad_spec_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(InputError, match="spec") as caught:
        read_spec_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_spec_is_a_key_and_travels(compression: Compression) -> None:
    made = StoreSpec("small", (4, 8, 8), compression=compression)
    assert pickle.loads(pickle.dumps(made)) == made
    assert {made: 1}[StoreSpec.from_mapping(json.loads(made.canonical_json()))] == 1


def test_two_specs_of_one_name_are_refused() -> None:
    assert distinct_specs([PRETRAIN, FINETUNE, PRETRAIN]) == [PRETRAIN, FINETUNE]
    with pytest.raises(InputError, match="two different specs"):
        distinct_specs([PRETRAIN, replace(PRETRAIN, window_level_hu=0.0)])


def test_the_stores_document_shows_a_name_of_today() -> None:
    text = (Path(spec.__file__).parents[1] / "STORE.md").read_text()
    assert PRETRAIN.name in text
