"""Which image belongs to which series and plane: from a folder, or from a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voco_data.errors import InputError
from voco_data.paired_images.image_files import SUFFIXES
from voco_data.paired_images.map_area import PLANES, Plane
from voco_data.storage import iterate_rows, read_table

TABLE = "images.csv"
"""The table of a folder that `make_pairs` wrote. A folder with it is read by it."""
COLUMNS = ("series_uid", "plane", "path")
OPTIONAL = ("mask", "kind", "volume_checksum")
MASK_SUFFIX = "_mask"
GIVEN = "given"
"""Kind of an image that no program of ours made."""

Key = tuple[str, Plane]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """The image of a series in a plane."""

    series_uid: str
    plane: Plane
    path: Path
    mask: Path | None = None
    """Image whose pixels are 0 where `path` is not measured."""
    kind: str = GIVEN
    """What the image is: `localizer`, `phase`, or `given`."""
    volume_checksum: str = ""
    """Checksum of the stored volume for which the image was made; empty if for none."""


def list_images(source: Path) -> dict[Key, ImageEntry]:
    """The images of a folder or a table, by series and plane. No image is opened.

    A folder has one folder for each series, named by the id that the store has, with
    `coronal` and `sagittal` files (.npy, .png, .dcm) and masks `coronal_mask`, `sagittal_mask`.
    A table (.csv, .parquet) has the columns `COLUMNS`, and may have `OPTIONAL`; paths are relative
    to its folder. Raises InputError.
    """
    if source.is_dir():
        table = source / TABLE
        entries = _read_table(table) if table.is_file() else _list_folder(source)
    elif source.is_file():
        entries = _read_table(source)
    else:
        raise InputError(f"images {source}: expected a folder of images or a table, got nothing")
    if not entries:
        raise InputError(
            f"images {source}: no image; expected <series id>/coronal.png or sagittal.png (or "
            f".npy, .dcm), or a table with the columns {', '.join(COLUMNS)}"
        )
    return entries


def _list_folder(folder: Path) -> dict[Key, ImageEntry]:
    entries: dict[Key, ImageEntry] = {}
    for series in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = [path for path in sorted(series.iterdir()) if path.suffix.lower() in SUFFIXES]
        masks = {path.stem.removesuffix(MASK_SUFFIX): path for path in files if _is_mask(path)}
        for path in files:
            if _is_mask(path):
                continue
            if path.stem not in PLANES:
                raise InputError(
                    f"images {path}: expected the name coronal or sagittal, or a mask "
                    f"coronal{MASK_SUFFIX} or sagittal{MASK_SUFFIX}"
                )
            plane: Plane = "coronal" if path.stem == "coronal" else "sagittal"
            entry = ImageEntry(series.name, plane, path, masks.pop(plane, None))
            _add(entries, entry, f"images {path}")
        if masks:
            raise InputError(f"images {masks.popitem()[1]}: a mask without its image")
    return entries


def _is_mask(path: Path) -> bool:
    return path.stem in {f"{plane}{MASK_SUFFIX}" for plane in PLANES}


def _read_table(path: Path) -> dict[Key, ImageEntry]:
    table = read_table(path, "images", (*COLUMNS, *OPTIONAL), blank_is_text=True)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"images {path}: expected the columns {', '.join(COLUMNS)}; no {missing[0]}"
        )
    entries: dict[Key, ImageEntry] = {}
    for number, row in enumerate(iterate_rows(table), start=1):
        where = f"images {path}: row {number}"
        _add(entries, _parse_row(row, path.parent, where), where)
    return entries


def _parse_row(row: Mapping[Any, Any], folder: Path, where: str) -> ImageEntry:
    text = {name: _text(row.get(name)) for name in (*COLUMNS, *OPTIONAL)}
    if not text["series_uid"] or not text["path"]:
        raise InputError(f"{where}: expected a series_uid and a path")
    if text["plane"] not in PLANES:
        raise InputError(
            f"{where}: expected the plane {' or '.join(PLANES)}, got {text['plane']!r}"
        )
    return ImageEntry(
        series_uid=text["series_uid"],
        plane="coronal" if text["plane"] == "coronal" else "sagittal",
        path=folder / text["path"],
        mask=folder / text["mask"] if text["mask"] else None,
        kind=text["kind"] or GIVEN,
        volume_checksum=text["volume_checksum"],
    )


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value).strip()


def _add(entries: dict[Key, ImageEntry], entry: ImageEntry, where: str) -> None:
    key: Key = (entry.series_uid, entry.plane)
    if key in entries:
        raise InputError(
            f"{where}: a second {entry.plane} image of series {entry.series_uid}; give one"
        )
    entries[key] = entry


def hash_images(source: Path) -> str:
    """The SHA-256 of all images of `source` with their series and planes, whatever their files'
    names. Raises InputError as `list_images`, and for a file that cannot be read.
    """
    content = hashlib.sha256()
    for (series, plane), entry in sorted(list_images(source).items()):
        files = [entry.path] if entry.mask is None else [entry.path, entry.mask]
        facts = (series, plane, entry.volume_checksum, *map(_hash_file, files))
        content.update(json.dumps(facts).encode())
    return content.hexdigest()


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"images {path}: cannot be read ({error.strerror})") from error


def count_unknown(entries: Mapping[Key, ImageEntry], series: Iterable[str]) -> int:
    """How many of the entries name a series that is not among `series`."""
    known = set(series)
    return sum(uid not in known for uid, _ in entries)
