"""3D-to-2D networks on volumes in memory, such as OCT: of one plane, which collapses Y.

`project` does the same for stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import ArrayVolumes, InputWindow, Loader
from voco_models.networks import Plane, check_projection_grid, read_weights
from voco_models.objectives import (
    LABELLED,
    ProjectionObjective,
    ReconstructionObjective,
    SegmentationObjective,
    map_name,
    valid_name,
)
from voco_models.recorded_options import values_to_record
from voco_models.stages import recipe_options
from voco_models.stages.initial_weights import SCRATCH
from voco_models.stages.projection_plan import STAGE, create_networks, hash_targets
from voco_models.stages.projection_recipes import ProjectionRecipe, projection_recipe
from voco_models.stages.projection_weights import (
    NETWORKS,
    InitialProjection,
    load_initial_projection,
    read_provenance,
    write_networks,
)
from voco_models.training import (
    FitSummary,
    check_before_resume,
    check_run_folder,
    checkpoint,
    choose_device,
    complete_run,
    fit,
    make_provenance,
)

PLANE: Plane = "coronal"
BYTES = InputWindow(0.0, 255.0)


def project_arrays(
    volumes: npt.NDArray[np.uint8],
    maps: npt.NDArray[np.generic],
    out: str | Path,
    *,
    is_valid: npt.NDArray[np.bool_] | None = None,
    init: str | Path = SCRATCH,
    recipe: str | Path | ProjectionRecipe = "default",
    changes: Sequence[str] = (),
    max_steps: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
) -> FitSummary:
    """Train the coronal network to give a map of each volume; write the run to `out`.

    Parameters
    ----------
    volumes : uint8 (N, Z, Y, X).
    maps : with the recipe's target `image`, images (N, Z, X) from 0 to 1; with the target `organs`,
        bool (N, R, Z, X), a map for each of the recipe's `organs`, which may be lesions.
    out : folder of the run.
    is_valid : bool (N, Z, X), pixels that images show; all if None.
    init : `scratch`, or the folder of a run of such a network. All its weights are taken, but those
        of a head for another number of maps.
    recipe, changes, max_steps, resume, device : as in `project`.

    Raises
    ------
    InputError : before anything is written, for arrays that do not fit together.
    """
    chosen = projection_recipe(recipe, changes)
    source, device = ArrayVolumes(volumes), choose_device(device)
    check_projection_grid(source.grid)
    targets = _make_targets(chosen, volumes.shape, maps, is_valid)
    initial = load_initial_projection(init, chosen)
    objective = _build_objective(chosen, initial)
    provenance = make_provenance(STAGE, values_to_record(chosen), (), init=initial.name) | {
        "targets": hash_targets(targets | {"volumes": torch.from_numpy(volumes)}),
    }
    run, items = Path(out), source.items()
    check_run_folder(run, resume=resume)
    if resume:
        check_before_resume(run)
    loader = Loader(
        items,
        batch_size=min(chosen.batch_size, len(items)),
        seed=chosen.fit.seed,
        device=device,
        targets=targets,
    )
    if not resume:
        checkpoint.write_run(run, {"stage": STAGE, "provenance": provenance})
    summary = fit(
        objective,
        loader,
        chosen.fit,
        out=run,
        device=device,
        max_steps=max_steps,
        resume=resume,
        provenance=provenance,
    )
    write_networks(run, dict(objective.networks.items()), provenance)
    complete_run(run, checkpoint.read_run(run))
    return summary


@torch.inference_mode()
def predict_arrays(
    run: str | Path,
    volumes: npt.NDArray[np.uint8],
    *,
    device: str | torch.device | None = None,
) -> npt.NDArray[np.float32]:
    """The coronal maps (N, C, Z, X), from 0 to 1, of uint8 volumes (N, Z, Y, X).

    `run` is the folder of a run of a 3D-to-2D network. Raises InputError if it is none.
    """
    file, device = Path(run) / NETWORKS, choose_device(device)
    if not file.is_file():
        raise InputError(f"{run}: expected the folder of a finished run, found no {NETWORKS}")
    recipe = recipe_options.build_recipe(ProjectionRecipe, read_provenance(file)["recipe"])
    source = ArrayVolumes(volumes)
    check_projection_grid(source.grid)
    weights = InitialProjection(str(run), read_weights(file), None)
    objective = _build_objective(recipe, weights).to(device).eval()
    maps = []
    for start in range(0, len(volumes), recipe.batch_size):
        batch = torch.from_numpy(volumes[start : start + recipe.batch_size]).to(device)
        maps.append(objective.predict(batch)[PLANE].float().sigmoid().cpu().numpy())
    return np.concatenate(maps)


def _build_objective(recipe: ProjectionRecipe, initial: InitialProjection) -> ProjectionObjective:
    networks = create_networks(recipe, initial)
    if recipe.target == "organs":
        return SegmentationObjective(networks, recipe.augmentation, BYTES, planes=(PLANE,))
    return ReconstructionObjective(
        networks, recipe.augmentation, BYTES, shuffled=recipe.shuffled, planes=(PLANE,)
    )


def _make_targets(
    recipe: ProjectionRecipe,
    shape: tuple[int, ...],
    maps: npt.NDArray[np.generic],
    is_valid: npt.NDArray[np.bool_] | None,
) -> dict[str, Tensor]:
    """The targets of volumes of `shape`. Raises InputError."""
    n, z, _, x = shape
    if recipe.target not in ("image", "organs"):
        raise InputError(f"arrays: expected the target image or organs, got {recipe.target}")
    wanted = (n, z, x) if recipe.target == "image" else (n, len(recipe.organs), z, x)
    if maps.shape != wanted:
        raise InputError(
            f"maps: expected {wanted} for the target {recipe.target}, got {maps.shape}"
        )
    if recipe.target == "organs":
        if maps.dtype != np.bool_ or is_valid is not None:
            raise InputError("maps: expected bool and no is_valid for the target organs")
        known = torch.ones(wanted[:2], dtype=torch.bool)
        return {map_name(PLANE): torch.from_numpy(maps.astype(np.bool_)), LABELLED: known}
    valid = np.ones(wanted, np.bool_) if is_valid is None else is_valid
    if valid.shape != wanted:
        raise InputError(f"is_valid: expected {wanted}, got {valid.shape}")
    images = maps.astype(np.float32)
    if not ((images >= 0) & (images <= 1)).all():
        raise InputError("maps: expected images from 0 to 1, without NaN")
    return {
        map_name(PLANE): torch.from_numpy(images)[:, None],
        valid_name(PLANE): torch.from_numpy(valid.astype(np.bool_))[:, None],
    }
