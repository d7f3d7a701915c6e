"""The classifiers of a run as one ONNX model, for programs without PyTorch.

Inputs: `voxels`, float32 (batch, Z, Y, X), stored values of a volume in the recipe's view, and for
heads that need it `depths_mm`, float32 (batch, Z), see `VolumeView.depths_mm`. Outputs: one per
group, probabilities (batch, C), the mean over models and flips, before calibration.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.storage import atomic
from voco_models.data import InputWindow, centre
from voco_models.networks import SliceSequenceClassifier

OPSET = 20
"""The first version in which GridSample takes volumes."""
VOXELS, DEPTHS = "voxels", "depths_mm"
METADATA = "voco"
"""Key of the metadata in the model, JSON."""
EXAMPLE_BATCH = 2
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")

FloatArray = npt.NDArray[np.float32]


class OnnxClassifier(nn.Module):
    """Stored voxels to probabilities, the mean over models and flips, as `explain` computes."""

    def __init__(
        self,
        models: Sequence[SliceSequenceClassifier],
        window: InputWindow,
        flips: Sequence[tuple[int, ...]],
        groups: Sequence[str],
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.window = window
        self.flips = tuple(flips)
        self.groups = tuple(groups)

    def forward(self, voxels: Tensor, depths_mm: Tensor | None = None) -> tuple[Tensor, ...]:
        """Probabilities (B, C) of every group, of voxels (B, Z, Y, X)."""
        inputs = centre(self.window.to_unit(voxels))
        outputs = [
            model(inputs.flip(axes) if axes else inputs, depths_mm)
            for model in self.models
            for axes in self.flips
        ]
        return tuple(
            torch.stack([logits[group].softmax(dim=-1) for logits in outputs]).mean(dim=0)
            for group in self.groups
        )


def check_onnx_installed() -> None:
    """Raise InputError unless the libraries of the extra `onnx` are installed."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {', '.join(missing)}: pip install 'voco[onnx]'")


def write_onnx(
    path: Path,
    model: OnnxClassifier,
    shape: tuple[int, int, int],
    *,
    needs_depths: bool,
    metadata: Mapping[str, Any],
) -> None:
    """Write a model for volumes of `shape` (Z, Y, X), in batches of any size."""
    import onnx

    inputs = example_inputs(shape, EXAMPLE_BATCH, needs_depths=needs_depths)
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    sizes = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        exported = torch.export.export(
            model.eval(), tuple(tensors), dynamic_shapes=sizes, strict=False
        ).run_decompositions({torch.ops.aten.adaptive_max_pool2d.default: adaptive_max_pool2d})
        program = torch.onnx.export(
            exported,
            tuple(tensors),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(model.groups),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(metadata, sort_keys=True)})
    with atomic.replacing(path) as temporary:
        onnx.save(proto, temporary)


def quantise(path: Path, out: Path) -> None:
    """Write a model to `out` with int8 weights; activations are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(path, out, weight_type=QuantType.QInt8)


def adaptive_max_pool2d(images: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """PyTorch's operator, which the exporter does not know, by operators that it knows.

    Window i of n covers rows floor(i * H / n) to ceil((i + 1) * H / n). The second result, the
    places of the maxima, is not computed: nothing uses it.
    """
    n_rows, n_columns = output_size
    rows = []
    for top, bottom in _windows(images.shape[-2], n_rows):
        of_row = [
            images[..., top:bottom, left:right].amax(dim=(-2, -1))
            for left, right in _windows(images.shape[-1], n_columns)
        ]
        rows.append(torch.stack(of_row, dim=-1))
    pooled = torch.stack(rows, dim=-2)
    return pooled, torch.zeros_like(pooled, dtype=torch.int64)


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def run_onnx(path: Path, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The outputs of a model by name, computed by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_torch(model: OnnxClassifier, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The same outputs, computed by PyTorch."""
    with torch.inference_mode():
        outputs = model.eval()(*(torch.from_numpy(array) for array in inputs.values()))
    return dict(zip(model.groups, (output.numpy() for output in outputs), strict=True))


def example_inputs(
    shape: tuple[int, int, int], batch: int, *, needs_depths: bool
) -> dict[str, FloatArray]:
    """Random voxels, and depths of volumes of 300 to 500 mm, by the names of the inputs."""
    generator = np.random.default_rng(0)
    inputs = {VOXELS: generator.uniform(0, 255, (batch, *shape)).astype(np.float32)}
    if needs_depths:
        extent = generator.uniform(300, 500, (batch, 1))
        places = 1 - (np.arange(shape[0]) + 0.5) / shape[0]
        inputs[DEPTHS] = (extent * places).astype(np.float32)
    return inputs
