"""The ONNX file of a run, in onnxruntime: the probabilities that fine-tuning wrote."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError, VocoError
from voco_data.store.reader import Store
from voco_models.data.volume_view import VolumeView
from voco_models.evaluation.predictions import probability_columns, read_predictions
from voco_models.prediction.onnx_model import LIBRARIES, adaptive_max_pool2d
from voco_models.stages import onnx_export
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe
from voco_models.stages.finetuning import finetune
from voco_models.stages.onnx_export import export_onnx
from voco_models.stages.series_geometry import read_geometry

installed = pytest.mark.skipif(
    any(find_spec(name) is None for name in LIBRARIES),
    reason="no onnx, onnxscript and onnxruntime: pip install 'voco[onnx]'",
)

WITHOUT_DEPTHS = dataclasses.replace(RECIPE, epochs=1, flips=((), (1,)))
WITH_DEPTHS: FinetuneRecipe = dataclasses.replace(
    FINETUNE_RECIPES["tiny"],
    name="small organs",
    view=VolumeView(slices=4, size_px=32, reduce="average", z_range=(0.0, 1.0)),
    epochs=1,
    batch_size=2,
    hidden=4,
    attention_weight=0.0,
    n_folds=2,
)


@dataclasses.dataclass(frozen=True)
class Case:
    store: Store
    run: Path
    recipe: FinetuneRecipe


@pytest.fixture(
    scope="module", params=[WITHOUT_DEPTHS, WITH_DEPTHS], ids=["bilstm", "organ_queries"]
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    store, labels = small_cohort(folder)
    finetune(store, labels, folder / "run", recipe=request.param, device="cpu")
    return Case(store, folder / "run", request.param)


def inputs_of(case: Case, rows: list[int], session: Any) -> dict[str, np.ndarray]:
    """What the model takes of some volumes; the view of these recipes is the whole volume."""
    inputs = {"voxels": np.stack([case.store.read(row) for row in rows]).astype(np.float32)}
    if "depths_mm" in {each.name for each in session.get_inputs()}:
        extents = read_geometry(case.store, rows, ("liver",)).z_extent_mm
        inputs["depths_mm"] = case.recipe.view.depths_mm(extents).numpy()
    return inputs


@installed
def test_onnxruntime_gives_the_test_predictions_of_the_run(case: Case, tmp_path: Path) -> None:
    """Of all folds together, and of the network with depths of one: an export takes seconds."""
    import onnxruntime

    fold = 0 if case.recipe is WITH_DEPTHS else None
    summary = export_onnx(case.run, tmp_path / "model.onnx", fold=fold)
    assert summary.folds == ((0, 1) if fold is None else (fold,))
    assert summary.largest_difference < 1e-4
    assert summary.bytes == summary.file.stat().st_size
    folder = case.run if fold is None else case.run / f"fold-{fold}"
    expected = read_predictions(folder / "predictions.parquet")
    expected = expected[(expected["level"] == "series") & (expected["split"] == "test")]
    rows = case.store.catalogue.set_index("series_uid").loc[expected["series_uid"], "row"].tolist()
    assert len(rows) == 3  # another size than that of the export
    session = onnxruntime.InferenceSession(summary.file, providers=["CPUExecutionProvider"])
    for chosen in (slice(0, 3), slice(0, 1)):
        outputs = session.run(list(summary.outputs), inputs_of(case, rows[chosen], session))
        found = np.concatenate(outputs, axis=1)
        wanted = expected[probability_columns()].to_numpy()[chosen]
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    described = json.loads(session.get_modelmeta().custom_metadata_map["voco"])
    assert described["classes"]["liver"] == ["healthy", "low", "high"]
    assert described["decision"] == json.loads((case.run / "decision.json").read_text())
    assert described["use"].startswith("Not a medical device. For research only.")
    assert described["spec"]["grid"] == list(case.store.grid)


@installed
@pytest.mark.slow
def test_int8_states_the_difference_that_it_makes(case: Case, tmp_path: Path) -> None:
    import onnxruntime

    exact = export_onnx(case.run, tmp_path / "exact.onnx", fold=0)
    small = export_onnx(case.run, tmp_path / "small.onnx", fold=0, int8=True)
    assert exact.int8_difference is None
    assert small.bytes < exact.bytes
    assert small.largest_difference == exact.largest_difference  # of float32
    sessions = [
        onnxruntime.InferenceSession(one.file, providers=["CPUExecutionProvider"])
        for one in (exact, small)
    ]
    assert "voco" in sessions[1].get_modelmeta().custom_metadata_map
    inputs = inputs_of(case, [0, 1, 2], sessions[0])
    one, other = (np.concatenate(session.run(None, inputs), axis=1) for session in sessions)
    assert small.int8_difference is not None
    assert 0 < small.int8_difference < 0.2
    assert 0 < np.abs(one - other).max() < 0.2


@installed
def test_bad_input_writes_nothing(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.onnx"):
        export_onnx(case.run, tmp_path / "model.pt")
    with pytest.raises(InputError, match="expected a fold from 0 to 1, got 2"):
        export_onnx(case.run, tmp_path / "model.onnx", fold=2)
    with pytest.raises(InputError, match="expected the folder of a voco run"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    (tmp_path / "other.onnx").write_bytes(b"1")
    with pytest.raises(InputError, match="exists already"):
        export_onnx(case.run, tmp_path / "other.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


@pytest.mark.slow
@installed
def test_a_model_that_disagrees_is_not_written(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_export.onnx_model.run_onnx

    def wrong(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: output + 2e-4 for name, output in right(path, inputs).items()}

    monkeypatch.setattr(onnx_export.onnx_model, "run_onnx", wrong)
    with pytest.raises(VocoError, match=r"onnxruntime differs from PyTorch by 0\.0002"):
        export_onnx(case.run, tmp_path / "model.onnx", fold=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (7, 4), (1, 1)])
def test_the_pooling_of_the_export_is_that_of_pytorch(shape: tuple[int, int]) -> None:
    images = torch.rand(3, 2, *shape)
    expected = torch.nn.functional.adaptive_max_pool2d(images, (2, 2))
    torch.testing.assert_close(adaptive_max_pool2d(images, (2, 2))[0], expected, rtol=0, atol=0)


def test_without_the_libraries_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export.onnx_model, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, onnxscript, onnxruntime: pip install"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
