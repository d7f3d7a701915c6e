"""What a store holds, frozen: every field is hashed, so another spec is another store."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from voco_data.errors import InputError
from voco_data.store.chunks.codec import Compression
from voco_data.volumes.slice_spacing import GapPolicy

ALGORITHM_VERSION = 3
"""Bump when the same spec would give other pixels. The golden hashes in the tests enforce it."""

DIGEST_LENGTH = 12
_PROFILE = re.compile(r"[a-z][a-z0-9_]{0,30}")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """The recipe of one store. Two specs that differ in any field have different digests."""

    profile: str
    """Short name that leads the store's folder name."""
    grid: tuple[int, int, int]
    """Shape (Z, Y, X) of every volume, in voxels."""
    window_level_hu: float = 50.0
    """Centre of the window, in HU."""
    window_width_hu: float = 400.0
    """Width of the window, in HU. uint8 value v means level - width/2 + v/255 * width."""
    crop: Literal["abdomen", "body", "none"] = "abdomen"
    """What is cut out before resampling: abdomen z-range and body box, body box, or nothing."""
    margin_mm: tuple[float, float, float] = (10.0, 5.0, 5.0)
    """Air kept around the found box, (z, y, x)."""
    resampling: Literal["area"] = "area"
    """Exact area average along axes that shrink, linear along axes that grow."""
    quantisation: Literal["uint8"] = "uint8"
    """Rounded half up to 0..255."""
    compression: Compression = "none"
    """How chunks lie on disk: as they are, or LZ4 for remote or cold data."""
    min_slices: int = 8
    """A series with fewer slices is not a volume."""
    min_extent_mm: float = 20.0
    """A series that covers less is not a volume."""
    spacing_tolerance: float = 0.05
    """How far a gap between slices may be from the median gap, as a fraction of it."""
    uneven_slices: Literal["refuse", "resample"] = "refuse"
    """What to do with gaps beyond that: refuse the series, or interpolate it, flagged."""
    axis_tolerance_deg: float = 5.0
    """Axes nearer than this to the patient's axes are permuted and flipped, not resampled."""
    algorithm_version: int = ALGORITHM_VERSION
    """Version of the code that makes the pixels."""

    def __post_init__(self) -> None:
        if not _PROFILE.fullmatch(self.profile):
            raise InputError(
                f"spec: profile must be lower case letters, digits and _, got {self.profile!r}"
            )
        if len(self.grid) != 3 or any(
            not isinstance(n, int) or not 1 <= n <= 4096 for n in self.grid
        ):
            raise InputError(f"spec: grid must be three sizes from 1 to 4096, got {self.grid}")
        if not self.window_width_hu > 0:
            raise InputError(f"spec: window_width_hu must be above 0, got {self.window_width_hu}")
        if self.crop not in ("abdomen", "body", "none"):
            raise InputError(f"spec: crop must be abdomen, body or none, got {self.crop!r}")
        if self.resampling != "area" or self.quantisation != "uint8":
            raise InputError("spec: only resampling 'area' and quantisation 'uint8' exist")
        if self.compression not in ("none", "lz4"):
            raise InputError(f"spec: compression must be none or lz4, got {self.compression!r}")
        if len(self.margin_mm) != 3 or any(not m >= 0 for m in self.margin_mm):
            raise InputError(f"spec: margin_mm must be three lengths >= 0, got {self.margin_mm}")
        if self.min_slices < 2 or not self.spacing_tolerance > 0:
            raise InputError("spec: min_slices must be >= 2 and spacing_tolerance above 0")
        if self.uneven_slices not in ("refuse", "resample"):
            raise InputError(
                f"spec: uneven_slices must be refuse or resample, got {self.uneven_slices!r}"
            )

    def canonical_json(self) -> str:
        """Every field, sorted, in the one form that is hashed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of `canonical_json`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:DIGEST_LENGTH]

    @property
    def name(self) -> str:
        """Folder name of the store: `<profile>-<digest>.zarr`."""
        return f"{self.profile}-{self.digest}.zarr"

    @property
    def rules(self) -> tuple[int, float, float, str, float]:
        """What counts as a volume; specs with equal rules share one decode of a series."""
        return (
            self.min_slices,
            self.min_extent_mm,
            self.spacing_tolerance,
            self.uneven_slices,
            self.axis_tolerance_deg,
        )

    @property
    def gaps(self) -> GapPolicy:
        """What to do with gaps between slices that are not alike."""
        return GapPolicy(self.spacing_tolerance, self.uneven_slices)

    @property
    def window_low_hu(self) -> float:
        """HU that becomes 0."""
        return self.window_level_hu - self.window_width_hu / 2

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> StoreSpec:
        """Build from parsed JSON. Unknown or missing fields and wrong types are an InputError."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(f"spec: unknown field {unknown[0]!r}; known are {sorted(known)}")
        if not {"profile", "grid"} <= set(data):
            raise InputError("spec: needs at least the fields profile and grid")
        typed = dict(data)
        try:
            typed["grid"] = tuple(data["grid"])
            if "margin_mm" in data:
                typed["margin_mm"] = tuple(float(m) for m in data["margin_mm"])
            for name in (
                "window_level_hu",
                "window_width_hu",
                "min_extent_mm",
                "spacing_tolerance",
                "axis_tolerance_deg",
            ):
                if name in data:
                    typed[name] = float(data[name])
            return cls(**typed)
        except (TypeError, ValueError) as error:
            raise InputError(f"spec: a field has the wrong type ({error})") from error


PRETRAIN = StoreSpec(profile="pretrain", grid=(32, 192, 192))
FINETUNE = StoreSpec(profile="finetune", grid=(96, 256, 256))
PROFILES = {spec.profile: spec for spec in (PRETRAIN, FINETUNE)}


def read_spec_file(path: Path) -> list[StoreSpec]:
    """Specs of a JSON file: one object, or a list of objects."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"spec file {path}: cannot be read as JSON ({error})") from error
    items = data if isinstance(data, list) else [data]
    if not items or not all(isinstance(item, dict) for item in items):
        raise InputError(f"spec file {path}: expected an object or a list of objects")
    return [StoreSpec.from_mapping(item) for item in items]


def distinct(specs: list[StoreSpec]) -> list[StoreSpec]:
    """The specs without repeats; two different specs of one profile name are an InputError."""
    by_profile: dict[str, StoreSpec] = {}
    for spec in specs:
        other = by_profile.setdefault(spec.profile, spec)
        if other != spec:
            raise InputError(
                f"two different specs are named {spec.profile!r} "
                f"({other.digest} and {spec.digest}); give one of them another profile name"
            )
    return list(by_profile.values())
