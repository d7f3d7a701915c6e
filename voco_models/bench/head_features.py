"""Features of slices of a frozen backbone, kept on disk, so that many heads train on one pass.

CACHE/<backbone>-<digest>/features.json   what the digest is of
CACHE/<backbone>-<digest>/pooled/<row>.npy   float16 (Z, F * P): the vectors of a slice
CACHE/<backbone>-<digest>/stages/<row>.npy   float16 (Z, K): feature maps (h, w, F) of the stages,
    one by one

The digest is of the weights, the recipe's view and window, the pooling, and the content of the
store. A file is written completely or not at all, and is not written again. Names have no ids.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.errors import VocoError, translate_unwritable
from voco_data.storage import atomic
from voco_models.data import Loader, centre
from voco_models.networks import Backbone, JoinedStages, SlicePooling, pool_map
from voco_models.stages import FinetunePlan, hash_weights

FORMAT = 2
DESCRIPTION = "features.json"
IMAGES_PER_CALL = 128
"""Slices of one call of the backbone, unless the recipe says how many."""
VOLUMES_PER_BATCH = 4

STRIDE_PX = 8
"""Least distance of two places of `stages`, in pixels of a slice. The classifier has 4, which takes
four times as long."""

Kind = Literal["pooled", "stages"]
KINDS: tuple[Kind, ...] = ("pooled", "stages")
HalfArray = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """The files of the features of one backbone."""

    folder: Path

    def path_of(self, kind: Kind, row: int) -> Path:
        """Where the features of a row of the store are."""
        return self.folder / kind / f"{row:08d}.npy"

    def open(self, kind: Kind, rows: Sequence[int]) -> list[HalfArray]:
        """Features (Z, K) of each of `rows`, read from disk when they are used.

        Raises VocoError for a damaged file.
        """
        return [self._open(self.path_of(kind, row)) for row in rows]

    @staticmethod
    def _open(path: Path) -> HalfArray:
        try:
            features: HalfArray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise VocoError(
                f"{path}: expected features, the file is damaged; remove {path.parent.parent}, "
                "so that they are computed again"
            ) from error
        return features


def cache_features(
    plan: FinetunePlan,
    backbone: Backbone,
    cache: Path,
    kinds: Sequence[Kind],
    pooling: SlicePooling,
    rows: Sequence[int],
    device: torch.device,
) -> CachedFeatures:
    """Compute the features of `rows` that the folder `cache` lacks.

    The backbone is in evaluation mode. A volume is seen as in prediction: the middle view, without
    augmentation. Raises InputError for `stages` and a backbone without fine feature maps, and
    VocoError for features that float16 cannot hold, and if the files cannot be written.
    """
    description = _describe(plan, backbone, pooling)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    features = CachedFeatures(cache / f"{_file_name(backbone.name)}-{digest}")
    missing = [
        row for row in rows if not all(features.path_of(kind, row).is_file() for kind in kinds)
    ]
    with translate_unwritable(features.folder):
        atomic.write_text(features.folder / DESCRIPTION, text)
        if missing:
            _compute(plan, backbone.to(device).eval(), features, kinds, pooling, missing, device)
    return features


def join_stages(backbone: Backbone, size_px: int, width: int) -> JoinedStages:
    """The projections of the stages that are cached."""
    return JoinedStages(backbone, size_px, width, stride_px=STRIDE_PX)


def stack_features(arrays: Sequence[HalfArray]) -> Tensor:
    """Features (B, Z, K), float16, of B series (Z, K), in memory."""
    return torch.from_numpy(np.stack(arrays))


def split_maps(features: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Maps (..., h, w, F) of features (..., K) of stages, whose `shapes` are (F, h, w)."""
    parts = torch.split(features, [math.prod(shape) for shape in shapes], dim=-1)
    return [
        part.reshape(*part.shape[:-1], h, w, f)
        for part, (f, h, w) in zip(parts, shapes, strict=True)
    ]


def list_caches(cache: Path) -> list[dict[str, Any]]:
    """A line for each backbone and view in the folder `cache`: name, series, size."""
    lines = []
    for description in sorted(cache.glob(f"*/{DESCRIPTION}")):
        files = list(description.parent.glob("*/*.npy"))
        lines.append(
            {
                "cache": description.parent.name,
                "series": len({file.name for file in files}),
                "bytes": sum(file.stat().st_size for file in files),
            }
        )
    return lines


@torch.inference_mode()
def _compute(
    plan: FinetunePlan,
    backbone: Backbone,
    features: CachedFeatures,
    kinds: Sequence[Kind],
    pooling: SlicePooling,
    rows: Sequence[int],
    device: torch.device,
) -> None:
    view = plan.recipe.view
    places = {row: index for index, row in enumerate(plan.series.rows)}
    items = plan.items_of(plan.series)
    stages = join_stages(backbone, view.size_px, 1) if "stages" in kinds else None
    loader = Loader(
        [items[places[row]] for row in rows],
        batch_size=min(VOLUMES_PER_BATCH, len(rows)),
        seed=0,
        device=device,
    )
    for batch in loader.ordered_batches():
        volumes = centre(plan.window.to_unit(view.make_middle_view(batch.volumes)))
        images = volumes.flatten(0, 1)[:, None]
        calls = torch.split(images, plan.recipe.images_per_call or IMAGES_PER_CALL)
        parts = [_of_images(backbone, call, kinds, pooling, stages) for call in calls]
        for kind in kinds:
            values = torch.cat([part[kind] for part in parts]).half()
            if not bool(values.isfinite().all()):
                raise VocoError(
                    f"{backbone.name}: its features are not finite in float16; check its weights"
                )
            by_volume = values.reshape(*volumes.shape[:2], -1).cpu().numpy()
            for index, array in zip(batch.items.tolist(), by_volume, strict=True):
                path = features.path_of(kind, rows[index])
                with atomic.replacing(path) as temporary, temporary.open("wb") as file:
                    np.save(file, array)


def _of_images(
    backbone: Backbone,
    images: Tensor,
    kinds: Sequence[Kind],
    pooling: SlicePooling,
    stages: JoinedStages | None,
) -> dict[Kind, Tensor]:
    """Features (N, K) of each kind, of images (N, 1, Y, X)."""
    maps = backbone.feature_maps(images) if stages is not None else [backbone(images)]
    found: dict[Kind, Tensor] = {}
    if "pooled" in kinds:
        found["pooled"] = pool_map(maps[-1], pooling)
    if stages is not None:
        found["stages"] = torch.cat(
            [one.permute(0, 2, 3, 1).flatten(1) for one in maps[stages.first :]], dim=1
        )
    return found


def _describe(plan: FinetunePlan, backbone: Backbone, pooling: SlicePooling) -> dict[str, Any]:
    (store,) = plan.provenance["stores"]
    return {
        "format": FORMAT,
        "backbone": backbone.name,
        "weights_sha256": hash_weights(dict(backbone.state_dict())),
        "view": json.loads(json.dumps(asdict(plan.recipe.view))),
        "window": json.loads(json.dumps(asdict(plan.window))),
        "pooling": pooling,
        "stride_px": STRIDE_PX,
        "store": {"digest": store["digest"], "content": store["content"]},
    }


def _file_name(backbone: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in backbone)
