"""The record of one stored series: a small JSON file that defines what its row holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

import xxhash

from voco_data.errors import StoreCorrupt, is_file_error
from voco_data.storage import ReadableStorage, WritableStorage
from voco_data.store.keys import MAX_ROWS, RECORDS, record_key, row_of_record
from voco_data.volumes import Triple


class SeriesIdentity(NamedTuple):
    """What makes a series the same one in every run: its ids, as they may be written.

    Neither pixels nor files are part of it. A series that has changed replaces its row, wherever
    its files lie.
    """

    patient_id: str
    study_uid: str
    """Empty if the files have none."""
    series_uid: str
    """With the suffix of the stack, if one UID holds several. If the UID is empty, a path."""


@dataclass(frozen=True, slots=True)
class Record:
    """Provenance and geometry of one stored volume. Lengths in mm, axes in LPS."""

    row: int
    """Index along the first axis of `volumes`."""
    spec_digest: str
    """Digest of the store's spec."""
    input_digest: str
    """XXH3-128 over pixels, geometry and the digest of a given box and the masks."""
    content_digest: str
    """XXH3-128 over the canonical HU alone: equal volumes share it, whatever their ids or files."""
    stat_digest: str
    """XXH3-128 of path, size and time of change of the source files."""
    chunk_checksum: str
    """XXH3-128 of the decoded chunk."""
    patient_id: str
    study_uid: str
    series_uid: str
    ids: str
    """`kept` or `pseudonym`."""
    layout: str
    source: str
    """Path relative to the archive if ids are kept, else a pseudonym."""
    transfer_syntax: str
    shape: tuple[int, int, int]
    """Slices, rows, columns before resampling, in the scanner's order."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x) of the canonical axes before resampling."""
    origin_mm: tuple[float, float, float]
    """LPS position of the first voxel in the scanner's order."""
    axes: tuple[Triple, Triple, Triple]
    """Unit LPS directions of the scanner's slice, row and column index."""
    native_spacing_mm: tuple[float, float, float]
    """Spacing along the scanner's slice, row and column index."""
    permutation: tuple[int, int, int]
    """Canonical axis i is the scanner's axis permutation[i]."""
    flips: tuple[bool, bool, bool]
    """Canonical axis i runs against the scanner's index."""
    resampled: bool
    """Whether a tilt or an oblique orientation was resampled; permutation and flips are then those
    of the canonical grid itself."""
    canonical_shape: tuple[int, int, int]
    """Voxels of the canonical volume (z, y, x) that the box was cut from."""
    canonical_first_mm: tuple[float, float, float]
    """(z, y, x): LPS position of the centre of the first canonical voxel."""
    box_method: str
    """How the box was found: `profile`, `body`, `whole`, `mask`, `projection` (3D-to-2D networks),
    or `given:` and its maker."""
    box_confidence: float
    """0 to 1; a box below 0.5 is a fallback."""
    box_low_mm: tuple[float, float, float]
    """(z, y, x): lowest LPS coordinate inside the box."""
    box_high_mm: tuple[float, float, float]
    """(z, y, x): highest LPS coordinate inside the box."""
    box_start: tuple[int, int, int]
    """First canonical voxel (z, y, x) of the box."""
    box_stop: tuple[int, int, int]
    """One past the last canonical voxel (z, y, x) of the box."""
    hu_p5: float | None
    """5th percentile of HU above air inside the box; None if there is none."""
    hu_median: float | None
    hu_p95: float | None
    organs: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]
    """Organs that masks show: lowest and highest LPS coordinate (z, y, x), voxel edges included."""
    instance_numbers: tuple[int, ...]
    """DICOM InstanceNumber of every slice, from inferior to superior; -1 if there is none."""
    flags: tuple[str, ...]
    """Remarks that did not stop the series, such as `dropped_duplicates`."""
    versions: dict[str, str]
    """Versions of the software that made the pixels."""
    organ_maps: dict[str, str] = field(default_factory=dict)
    """Silhouettes on the grid of the store (`voco_data.store.organ_maps`) of the organs that masks
    mark wholly. An organ that is not here is unknown; one whose map is empty is not in the box."""

    @property
    def identity(self) -> SeriesIdentity:
        """The series that the row holds."""
        return SeriesIdentity(self.patient_id, self.study_uid, self.series_uid)

    @property
    def key(self) -> str:
        """Key of the series, see `series_key`."""
        return series_key(self.identity)

    def to_json(self) -> str:
        """JSON text with its own checksum."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.organ_maps:  # as a record was before this field
            del data["organ_maps"]
        body = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return json.dumps({"xxh3_128": _checksum(body), "record": body}) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Record:
        """Parse and check the text of a record. Raises StoreCorrupt; `name` leads its message."""
        try:
            outer = json.loads(text)
            body = outer["record"]
            if _checksum(body) != outer["xxh3_128"]:
                raise StoreCorrupt(f"{name}: the record does not match its checksum")
            values = _field_values(json.loads(body))
            _check_geometry(values)
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreCorrupt(f"{name}: the record cannot be read ({error})") from error


def series_key(identity: SeriesIdentity) -> str:
    """Compute the key that stands for a series in every run: XXH3-128, 32 hex digits.

    An id may be a path with undecodable bytes, as surrogate escapes.
    """
    text = "\0".join(identity)
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


def rows_with_record(store: ReadableStorage) -> Iterator[int]:
    """Iterate over the rows that have a record, in no order. No record is read."""
    rows = (row_of_record(key) for key, _ in store.list_objects(RECORDS))
    return (row for row in rows if row is not None)


def write_record(store: WritableStorage, record: Record) -> None:
    """Write a record, in one atomic write. From then on the row holds a volume.

    It may be lost in a power failure until the storage is synchronised, as its chunk.
    """
    store.write(record_key(record.row), record.to_json().encode(), synced=False)


def read_record(store: ReadableStorage, row: int) -> Record | None:
    """Read the record of `row`; None for a hole.

    Raises StoreCorrupt for a damaged record, OSError if it cannot be read for another reason.
    """
    key = record_key(row)
    try:
        text = store.read(key).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        if not is_file_error(error):
            raise
        reason = error.strerror
        raise StoreCorrupt(f"{store}/{key}: the record cannot be read ({reason})") from error
    except UnicodeDecodeError as error:
        raise StoreCorrupt(f"{store}/{key}: the record is not text ({error})") from error
    record = Record.from_json(text, f"{store}/{key}")
    if record.row != row:
        raise StoreCorrupt(f"{store}/{key}: the record is of row {record.row}")
    return record


def _check_geometry(values: dict[str, Any]) -> None:
    """Raise ValueError for values by which a volume would be turned or sought wrongly."""
    row, permutation, flips = (values[name] for name in ("row", "permutation", "flips"))
    if type(row) is not int or not 0 <= row < MAX_ROWS:
        raise ValueError(f"row {row!r}")
    if not isinstance(permutation, tuple) or sorted(permutation) != [0, 1, 2]:
        raise ValueError(f"permutation {permutation!r}")
    if not isinstance(flips, tuple) or [type(flip) for flip in flips] != [bool] * 3:
        raise ValueError(f"flips {flips!r}")
    for name in ("shape", "canonical_shape"):
        sizes = values[name]
        if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"{name} {sizes!r}")


def _checksum(body: str) -> str:
    return xxhash.xxh3_128_hexdigest(body.encode())


def _field_values(data: dict[str, Any]) -> dict[str, Any]:
    """Parsed JSON with tuples for lists. Raises ValueError for missing or unknown fields.

    A field with a default may be missing: an older version wrote the record.
    """
    names = {f.name for f in fields(Record)}
    required = {f.name for f in fields(Record) if f.default_factory is MISSING}
    if not required <= set(data) <= names:
        raise ValueError(f"fields differ: {sorted((required - set(data)) | (set(data) - names))}")
    return {key: _tuples(value) for key, value in data.items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
