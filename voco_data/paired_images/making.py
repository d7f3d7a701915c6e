"""`voco pairs`: write a folder of second images for the series of a store.

OUT/<series id>/coronal.npy, sagittal.npy   float32, from 0 to 1, in the orientation of a viewer
OUT/<series id>/coronal_mask.npy            bool, where an image does not cover the whole map
OUT/images.csv                              the table of the images, written last
OUT/pairs.json                              kind, store, counts
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from voco_data.errors import InputError, translate_unwritable
from voco_data.ingest import IngestOptions, open_source
from voco_data.paired_images.listing import COLUMNS, MASK_SUFFIX, OPTIONAL, TABLE
from voco_data.paired_images.localizers import find_localizers, pair_localizers
from voco_data.paired_images.map_area import PLANES, MapImage, Plane
from voco_data.paired_images.phases import pair_phases
from voco_data.paired_images.study_frames import StoredSeries, find_stored_series
from voco_data.storage import parent_storage
from voco_data.store import Store
from voco_data.temporary_folders import temporary_folder

log = logging.getLogger(__name__)

PairKind = Literal["localizer", "phase"]
DESCRIPTION = "pairs.json"
PATIENT = "patient_id"
FOLDER_MODE = 0o755
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class PairSummary:
    """How many series have a second image, and why others have none."""

    kind: str
    store: str
    out: Path
    series: int
    """Series of the store."""
    paired: int
    """Series with an image in a plane or in both."""
    coronal: int
    sagittal: int
    coverage: float | None
    """Mean share of a map that an image covers; None without images."""
    left_out: dict[str, int]
    """Series without an image, and localizers that cannot be used, by reason."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {"out": str(self.out)}


def make_pairs(
    source: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    kind: PairKind,
    options: IngestOptions | None = None,
) -> PairSummary:
    """Write the second images of the series of `store` to the new folder `out`.

    Parameters
    ----------
    source : the archive that the store was made from.
    store : a folder or URL.
    out : the folder appears when it is complete.
    kind : `localizer`, the scouts of the same study, or `phase`, projections of other series of the
        same study.
    options : layout, and the table of patients of the run that made the store. Whether ids are kept
        is known from the store.

    Raises
    ------
    InputError : for a folder that is not empty, and as `voco preprocess` does.
    VocoError : if `out` cannot be written.
    """
    opened, folder = Store.open(store), Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder as --out")
    keeps_ids = "pseudonym" not in set(opened.catalogue["ids"])
    named = replace(options or IngestOptions(), keep_ids=keeps_ids)
    with open_source(source, parent_storage(store), named) as archive:
        series, left_out = find_stored_series(archive, opened)
        if kind == "localizer":
            localizers, unusable = find_localizers(archive)
            left_out += unusable
            pairs = pair_localizers(opened, series, localizers)
        else:
            pairs = pair_phases(opened, series)
        with translate_unwritable(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(folder) as made:
                rows = list(_write_images(made, pairs, kind, left_out))
                summary = _summarise(rows, kind, opened, folder, left_out)
                _write_tables(made, rows, summary)
                made.chmod(FOLDER_MODE)
                made.replace(folder)
    if not rows:
        log.warning("no pair was found: %s", json.dumps(summary.left_out))
    return summary


def _write_images(
    folder: Path,
    pairs: Iterator[tuple[StoredSeries, Mapping[Plane, MapImage] | str]],
    kind: str,
    left_out: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Write the images, and iterate over the rows of their table. Counts series without any."""
    for one, images in pairs:
        if isinstance(images, str):
            left_out[images] += 1
            continue
        name = _folder_name(one.line["series_uid"])
        (folder / name).mkdir()
        for plane, image in images.items():
            row = {"series_uid": one.line["series_uid"], "plane": plane, "kind": kind}
            row[PATIENT] = one.line["patient_id"]  # `voco store forget` looks for it
            row |= {"path": f"{name}/{plane}.npy", "coverage": image.coverage}
            row["volume_checksum"] = one.line["chunk_checksum"]
            np.save(folder / row["path"], image.values[::-1].astype(np.float32))
            if not image.is_valid.all():
                row["mask"] = f"{name}/{plane}{MASK_SUFFIX}.npy"
                np.save(folder / row["mask"], image.is_valid[::-1])
            yield row


def _folder_name(series_uid: str) -> str:
    """A name for the folder of a series: its id, or a hash of one that is a path."""
    if _SAFE_NAME.fullmatch(series_uid):
        return series_uid
    return xxhash.xxh3_128_hexdigest(series_uid.encode(errors="surrogateescape"))


def _summarise(
    rows: list[dict[str, Any]], kind: str, store: Store, out: Path, left_out: Counter[str]
) -> PairSummary:
    by_plane = Counter(row["plane"] for row in rows)
    return PairSummary(
        kind=kind,
        store=str(store.storage),
        out=out,
        series=len(store),
        paired=len({row["path"].partition("/")[0] for row in rows}),
        coronal=by_plane[PLANES[0]],
        sagittal=by_plane[PLANES[1]],
        coverage=float(np.mean([row["coverage"] for row in rows])) if rows else None,
        left_out=dict(sorted(left_out.items())),
    )


def _write_tables(folder: Path, rows: list[dict[str, Any]], summary: PairSummary) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(summary.to_json(), indent=1) + "\n")
    with (folder / TABLE).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *OPTIONAL, PATIENT], "", "ignore")
        writer.writeheader()
        writer.writerows(rows)
