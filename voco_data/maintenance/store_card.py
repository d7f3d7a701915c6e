"""The card of a store: what it holds and how it was made, for others, as Croissant JSON-LD.

A card never names a patient, a study, a series or a path of a machine. So no text of a record gets
into it; see `store_facts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError, translate_unwritable
from voco_data.labels import RSNA_TARGETS, join_labels, read_labels
from voco_data.maintenance import croissant
from voco_data.maintenance.croissant import Node, Publication
from voco_data.maintenance.listing import last_changed
from voco_data.maintenance.store_facts import StoreFacts, read_facts
from voco_data.storage import STORE_SUFFIX, ReadableStorage, atomic, open_storage
from voco_data.store import (
    CATALOGUE,
    CHUNKS,
    FORMAT,
    GROUP_METADATA,
    StoreSpec,
    catalogue,
    read_spec,
)
from voco_data.version import VERSION

SUFFIX: Final = ".croissant.json"
_DATA_TYPES: Final = {"int64": "cr:Int64", "float64": "cr:Float64", "string": "sc:Text"}
"""Types of the catalogue's columns to those of Croissant."""
_VOXEL_TYPES: Final = {"uint8": "cr:UInt8", "int16": "cr:Int16"}


@dataclass(frozen=True, slots=True)
class StoreCardSummary:
    """The file that was written."""

    file: str
    series: int
    patients: int
    licence: str
    """As in the card, `not given` if there is none."""
    missing: tuple[str, ...]
    """Properties that Croissant requires and that were not given."""
    bytes: int

    def to_json(self) -> dict[str, object]:
        """As `voco store card --json` prints it."""
        return asdict(self) | {"missing": list(self.missing)}


def write_store_card(
    store: str | Path | ReadableStorage,
    out: str | Path | None = None,
    *,
    publication: Publication | None = None,
    labels: str | Path | None = None,
    pseudonymise: Callable[[str], str] | None = None,
) -> StoreCardSummary:
    """Write the card of a store to `out` (`<store>.croissant.json` in the working folder).

    With `labels` it counts the classes of the store's patients; `pseudonymise` is as for
    `join_labels`. Raises InputError if the store does not open, if its labels cannot be read or
    cover none of its patients, and for a file that exists.
    """
    storage = open_storage(store)
    spec = read_spec(storage)
    path = Path(spec.name.removesuffix(STORE_SUFFIX) + SUFFIX) if out is None else Path(out)
    if path.exists():
        raise InputError(f"{path}: exists already; give another --out")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected an existing folder for it")
    document, facts = describe_as_croissant(
        storage,
        publication=publication or Publication(),
        labels=labels,
        pseudonymise=pseudonymise,
    )
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with translate_unwritable(path):
        atomic.write_text(path, text)
    return StoreCardSummary(
        file=str(path),
        series=facts.n_series,
        patients=len(facts.patients),
        licence=document["license"],
        missing=tuple(croissant.missing_properties(document)),
        bytes=len(text.encode()),
    )


def describe_as_croissant(
    storage: ReadableStorage,
    *,
    publication: Publication,
    labels: str | Path | None = None,
    pseudonymise: Callable[[str], str] | None = None,
) -> tuple[Node, StoreFacts]:
    """The card of a store as JSON-LD, and the facts in it. Raises as `write_store_card`."""
    spec, facts = read_spec(storage), read_facts(storage)
    created, changed = (last_changed(storage, key) for key in (GROUP_METADATA, CATALOGUE))
    dates = {"dateCreated": created, "dateModified": changed}
    z, y, x = spec.grid
    low, high = spec.window_low_hu, spec.window_low_hu + spec.window_width_hu
    window = (
        f"{z} x {y} x {x} voxels (z, y, x) of type {spec.quantisation}, which show HU from "
        f"{low:g} to {high:g}"
    )
    details: dict[str, Any] = {
        "spec": json.loads(spec.canonical_json()),
        "spec_digest": spec.digest,
        "shape": [facts.n_series, z, y, x],
        "dtype": spec.dtype.name,
        "spacing_mm": _describe_spacing(facts.spacing_mm),
        "counts": {
            "series": facts.n_series,
            "patients": len(facts.patients),
            "volume_bytes": facts.n_series * spec.volume_bytes,
            "layouts": facts.layouts,
            "ids": facts.ids,
            "box_methods": facts.box_methods,
        },
        "provenance": {
            "made_by": "voco preprocess",
            "store_format": FORMAT,
            "algorithm_version": spec.algorithm_version,
            "card_written_by": f"voco {VERSION}",
            "inputs_sha256": facts.inputs_sha256,
            "volumes_sha256": facts.volumes_sha256,
        },
    }
    if labels is not None:
        details["labels"] = _count_labels(labels, facts.patients, pseudonymise)
    document = croissant.dataset(
        name=spec.name.removesuffix(STORE_SUFFIX),
        description=(
            f"{facts.n_series} CT series of {len(facts.patients)} patients, each as one volume of "
            f"{window}. A store of voco, in Zarr v3."
        ),
        # MAJOR.MINOR.PATCH+BUILD: format, algorithm, and what the store holds now.
        version=f"{FORMAT}.{spec.algorithm_version}.0+{facts.volumes_sha256[:12]}",
        publication=publication,
        distribution=_files(spec, facts),
        record_sets=_record_sets(spec, facts),
        extra={name: date for name, date in dates.items() if date is not None}
        | {
            "isLiveDataset": False,
            "keywords": ["computed tomography", "abdomen", "volume", "Zarr"],
            "rai:dataPreprocessingProtocol": (
                f"voco preprocess, spec {spec.digest}: crop {spec.crop}, resampling "
                f"{spec.resampling}, to {window}."
            ),
            "rai:personalSensitiveInformation": _describe_ids(facts.ids),
            "voco": details,
        },
    )
    return document, facts


def _describe_spacing(spacing_mm: npt.NDArray[np.float64]) -> dict[str, list[float]] | None:
    """Minimum, median and maximum over the series, each (z, y, x) in mm; None without series.

    Rounded to 0.01 mm, which tells less of a single scan.
    """
    if not len(spacing_mm):
        return None
    values = np.round(np.quantile(spacing_mm, (0, 0.5, 1), axis=0), 2).tolist()
    return dict(zip(("minimum", "median", "maximum"), values, strict=True))


def _count_labels(
    path: str | Path,
    patients: frozenset[str],
    pseudonymise: Callable[[str], str] | None,
) -> dict[str, Any]:
    """Group to the number of the store's patients in each class."""
    joined = join_labels(
        read_labels(path), patients, allow_unlabelled=True, pseudonymise=pseudonymise
    )
    labelled = [joined.label_ids[patient] for patient in patients if patient in joined.label_ids]
    groups = {
        name: dict(
            zip(
                RSNA_TARGETS[name].classes,
                np.bincount(values, minlength=len(RSNA_TARGETS[name].classes)).tolist(),
                strict=True,
            )
        )
        for name, values in joined.labels.groups(labelled).items()
    }
    return {"patients": groups, "without_label": len(patients) - len(labelled)}


def _describe_ids(modes: Mapping[str, int]) -> str:
    """What the ids in the catalogue and the records are."""
    if not modes:
        return "The store holds no series."
    if set(modes) == {"pseudonym"}:
        ids = "Patient, study and series ids in the catalogue and the records are pseudonyms."
    else:
        ids = "The catalogue and the records hold ids of the archive that the store was made from."
    return f"{ids} This card holds none."


def _files(spec: StoreSpec, facts: StoreFacts) -> list[Node]:
    """The store's files, at paths relative to the folder that holds the store and the card."""
    nodes = [
        croissant.file_set(
            "store",
            includes=f"{spec.name}/**",
            encoding=croissant.ZARR,
            description="All files of the Zarr group: open its folder with any tool for Zarr v3.",
        ),
        croissant.file_set(
            "chunks",
            includes=f"{spec.name}/{CHUNKS}/*/0/0/0",
            encoding=croissant.BYTES,
            description=(
                "The volumes, one a file, as C-contiguous little-endian bytes"
                + (", with LZ4 in Blosc." if spec.compression != "none" else ".")
            ),
        ),
    ]
    if facts.catalogue_sha256 is not None:
        nodes.append(
            croissant.file_object(
                "catalogue",
                path=f"{spec.name}/{CATALOGUE}",
                sha256=facts.catalogue_sha256,
                size=facts.catalogue_bytes,
                encoding=croissant.PARQUET,
                description="One line a stored series.",
            )
        )
    return nodes


def _record_sets(spec: StoreSpec, facts: StoreFacts) -> list[Node]:
    row = croissant.field(
        "volumes",
        "row",
        data_type="cr:Int64",
        description="Index along the first axis of the array `volumes`.",
        source={
            "fileSet": {"@id": "chunks"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": rf"{CHUNKS}/(\d+)/0/0/0"},
        },
    )
    voxels = croissant.field(
        "volumes",
        "voxels",
        data_type=_VOXEL_TYPES[spec.dtype.name],
        description="The volume (z, y, x). z grows to superior, y to posterior, x to left.",
        source={"fileSet": {"@id": "chunks"}, "extract": {"fileProperty": "content"}},
        shape=spec.grid,
    )
    sets = [
        croissant.record_set(
            "volumes", key="row", description="The stored volumes.", fields=[row, voxels]
        )
    ]
    if facts.catalogue_sha256 is not None:
        sets.append(
            croissant.record_set(
                "series",
                key="row",
                description="The stored series: geometry, box, checksums.",
                fields=[_column(name, kind) for name, kind in catalogue.COLUMNS.items()],
            )
        )
    return sets


def _column(name: str, kind: str) -> Node:
    return croissant.field(
        "series",
        name,
        data_type=_DATA_TYPES.get(kind, "cr:Int32"),
        description=f"Column {name} of the catalogue.",
        source={"fileObject": {"@id": "catalogue"}, "extract": {"column": name}},
        shape=None if kind in _DATA_TYPES else (-1,),
    )
