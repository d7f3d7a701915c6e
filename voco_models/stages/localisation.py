"""The stage of localisation: boxes of organs and of the abdomen, from the maps of a run.

The table has one row per series. `voco preprocess --boxes` takes it: `series_uid`, the box in LPS
mm, `made_by` and `confidence`. More columns have the box and the confidence of every organ.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from voco_data.errors import InputError, translate_unwritable
from voco_data.storage import atomic
from voco_data.store import MaskReader, Record, Store
from voco_models.localisation import (
    ABDOMEN,
    OPEN_REGIONS,
    REGIONS,
    OrganBox,
    choose_box,
    find_box,
)
from voco_models.networks import read_weights
from voco_models.objectives import ProjectionObjective
from voco_models.stages import recipe_options
from voco_models.stages.localisation_page import write_boxes_page
from voco_models.stages.localisation_scores import plan_scores, score_boxes
from voco_models.stages.organ_map_prediction import predict_maps
from voco_models.stages.projection_plan import build_objective
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.stages.projection_weights import (
    DIGEST_LENGTH,
    NETWORKS,
    InitialProjection,
    read_provenance,
)
from voco_models.stages.series_geometry import read_records
from voco_models.training import choose_device, read_specs

log = logging.getLogger(__name__)

MARGIN_MM = 15.0


@dataclass(frozen=True, slots=True)
class LocalisationSummary:
    """The result of `localise`."""

    out: Path
    box: str
    """`abdomen`, or an organ."""
    made_by: str
    series: int
    found: int
    """Series with a box; the others have no row."""
    confidence: float | None
    """Median over the boxes; None without one."""
    page: Path | None = None
    """Pictures of the boxes; None if none were asked for."""
    scores: dict[str, Any] | None = None
    """Those of `localisation_scores.score_boxes`; None if nothing was scored."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values, without what was not asked for."""
        paths = {"out": str(self.out), "page": None if self.page is None else str(self.page)}
        values = asdict(self) | paths
        return {
            name: value
            for name, value in values.items()
            if value is not None or name == "confidence"
        }


def localise(
    run: str | Path,
    store: str | Path | Store,
    out: str | Path,
    *,
    box: str = ABDOMEN,
    margin_mm: float = MARGIN_MM,
    score: bool = False,
    masks: MaskReader | None = None,
    trained_on: Sequence[str | Path] = (),
    pictures: int = 0,
    device: str | torch.device | None = None,
) -> LocalisationSummary:
    """Write a table with the box of every series of `store`, for `voco preprocess --boxes`.

    The box of the abdomen reaches along z from the bowel to the highest of liver and spleen; in the
    plane it is left open. A series in which one of these ends is not found has no row, so that
    preprocessing finds its box from HU.

    Parameters
    ----------
    run : folder of a finished run of `voco project` with the target `organs`.
    store : a store of the spec that the run was trained on.
    out : the table, `.csv` or `.parquet`.
    box : `abdomen`, `kidney` (both), or an organ of the run.
    margin_mm : added on all sides.
    score : compare the boxes with the masks of patients whom the run has not learnt from, and write
        tables beside `out`; see `localisation_scores`.
    masks : reads the masks of `store` again, to count the voxels of organs that boxes keep.
    trained_on : stores that the run has learnt from, for the mean box; `store` if empty.
    pictures : number of series, the least certain first, on a page beside `out`; 0 for no page.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for a folder that is no such run, a store of another spec, an unknown organ, a
        table of another kind, and if nothing can be scored.
    """
    file, path = Path(run) / NETWORKS, Path(out)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"out: expected a file .csv or .parquet, got {path}")
    if not 0 <= margin_mm < 1000:
        raise InputError(f"margin: expected 0 to below 1000 mm, got {margin_mm}")
    if (masks is not None or trained_on) and not score:
        raise InputError("score: an archive and the run's store are for scores; give score too")
    if pictures < 0:
        raise InputError(f"pictures: expected 0 or more, got {pictures}")
    opened = store if isinstance(store, Store) else Store.open(store)
    objective, recipe = load_networks(file, opened)
    if box not in (*REGIONS, *recipe.organs):
        raise InputError(
            f"box: expected {', '.join(REGIONS)} or one of {', '.join(recipe.organs)}, got {box!r}"
        )
    rows = [int(row) for row in opened.rows]
    records = read_records(opened, rows)
    plan = None
    if score:
        others = [Store.open(other) for other in trained_on]
        plan = plan_scores(Path(run), opened, records, recipe.organs, box, others)
    chosen = choose_device(device)
    found = find_organ_boxes(objective, recipe, opened, records, chosen)
    made_by = f"projection:{_hash(file)}"
    lines = [
        _line(record, boxes, box, margin_mm, made_by)
        for record, boxes in zip(records, found, strict=True)
    ]
    table = pd.DataFrame([line for line in lines if line is not None], columns=_columns(recipe))
    _write(path, table)
    scores = None
    if plan is not None:
        scores = score_boxes(plan, found, path, margin_mm=margin_mm, masks=masks)
    missing = len(rows) - len(table)
    if missing:
        log.warning("%d of %d series have no box of the %s", missing, len(rows), box)
    summary = LocalisationSummary(
        out=path,
        box=box,
        made_by=made_by,
        series=len(rows),
        found=len(table),
        confidence=None if table.empty else float(table["confidence"].median()),
        page=path.with_suffix(".html") if pictures else None,
        scores=scores,
    )
    if summary.page is not None:
        write_boxes_page(
            summary.page,
            summary.to_json(),
            objective,
            opened,
            records,
            found,
            recipe.organs,
            pictures=pictures,
            device=chosen,
        )
    return summary


def load_networks(file: Path, store: Store) -> tuple[ProjectionObjective, ProjectionRecipe]:
    """The trained networks of a run, and its recipe. Raises InputError unless they fit `store`."""
    if not file.is_file():
        raise InputError(
            f"{file.parent}: expected the folder of a finished run of voco project, found no "
            f"{file.name}"
        )
    provenance = read_provenance(file)
    recipe = recipe_options.build_recipe(ProjectionRecipe, provenance["recipe"])
    if recipe.target != "organs":
        raise InputError(
            f"{file.parent}: expected a run with the target organs, got {recipe.target}; train one "
            f"with voco project --init {file.parent}"
        )
    digests = [spec.digest for spec in read_specs(provenance)]
    if store.spec.digest not in digests:
        raise InputError(
            f"{store.storage}: its spec is {store.spec.digest}, the run was trained on "
            f"{', '.join(digests)}; give a store of the same spec"
        )
    weights = InitialProjection(file.name, read_weights(file), None)
    return build_objective(recipe, store.spec, weights), recipe


def find_organ_boxes(
    objective: ProjectionObjective,
    recipe: ProjectionRecipe,
    store: Store,
    records: Sequence[Record],
    device: torch.device,
) -> list[dict[str, OrganBox]]:
    """The boxes of the organs that are found in each series of `records`, by name."""
    boxes: list[dict[str, OrganBox]] = []
    predicted = predict_maps(objective, store, [record.row for record in records], device)
    for record, maps in zip(records, predicted, strict=True):
        coronal, sagittal = maps
        found = {
            organ: find_box(coronal[i], sagittal[i], record.box_low_mm, record.box_high_mm)
            for i, organ in enumerate(recipe.organs)
        }
        boxes.append({organ: box for organ, box in found.items() if box is not None})
    return boxes


def _line(
    record: Record,
    boxes: Mapping[str, OrganBox],
    wanted: str,
    margin_mm: float,
    made_by: str,
) -> dict[str, Any] | None:
    """The row of a series; None if the wanted box is not found."""
    main = choose_box(boxes, wanted)
    if main is None:
        return None
    line: dict[str, Any] = {"series_uid": record.series_uid, "patient_id": record.patient_id}
    is_open = wanted in OPEN_REGIONS  # along y and x
    for axis, low, high in zip("zyx", main.low_mm, main.high_mm, strict=True):
        is_given = axis == "z" or not is_open
        line[f"{axis}_low_mm"] = low - margin_mm if is_given else float("nan")
        line[f"{axis}_high_mm"] = high + margin_mm if is_given else float("nan")
    line |= {"made_by": made_by, "confidence": main.confidence}
    for organ, box in boxes.items():
        for axis, low, high in zip("zyx", box.low_mm, box.high_mm, strict=True):
            line |= {f"{organ}_{axis}_low_mm": low, f"{organ}_{axis}_high_mm": high}
        line[f"{organ}_confidence"] = box.confidence
    return line


def _columns(recipe: ProjectionRecipe) -> list[str]:
    ends = [f"{axis}_{end}_mm" for axis in "zyx" for end in ("low", "high")]
    own = [f"{organ}_{name}" for organ in recipe.organs for name in (*ends, "confidence")]
    return ["series_uid", "patient_id", *ends, "made_by", "confidence", *own]


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH]


def _write(path: Path, table: pd.DataFrame) -> None:
    with translate_unwritable(path), atomic.replacing(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)
