"""The spec of a store: every field is hashed, so another spec is another store."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from voco_data.errors import InputError
from voco_data.storage import STORE_SUFFIX, ReadableStorage, read_json
from voco_data.store.chunks.codec import Compression
from voco_data.store.keys import GROUP_METADATA
from voco_data.volumes import VOXEL_TYPE, GapPolicy, Quantisation, Voxel, VoxelType

FORMAT = 1
"""Version of the layout on disk that this code reads and writes."""

ALGORITHM_VERSION = 5
"""Increase it if the same spec would give other pixels: tests compare the hashes of pixels."""

DIGEST_LENGTH = 12
VISIBLE_HU = (-100.0, 150.0)
"""Soft tissue. Usual windows contain it, and any scan of a body holds it."""
_PROFILE = re.compile(r"[a-z][a-z0-9_]{0,30}")
_MAX_SIZE = 4096
"""Voxels along an axis of the grid."""
_MAX_VOXELS = 1 << 30
"""Voxels of a volume: 16 times a scan of 1,024 slices of 256 x 256 pixels."""
_MAX_MARGIN_MM = 1000.0
_CT_HU = (-1024.0, 3071.0)
"""The HU of 12 bits, from air to dense bone. A window without any of them shows a constant."""
MAX_SPECS = 8
"""Specs of a file: each is a grid that every series is resampled to."""
_MAX_SPEC_BYTES = 1 << 20

Crop = Literal["abdomen", "body", "none"]
UnevenSlices = Literal["refuse", "resample"]


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """How the volumes of one store are made. Specs that differ in any field differ in digest.

    Raises InputError for a value that is not possible.
    """

    profile: str
    """Short name that leads the store's folder name."""
    grid: tuple[int, int, int]
    """Shape (Z, Y, X) of every volume, in voxels."""
    window_level_hu: float = 50.0
    """Centre of the window, in HU."""
    window_width_hu: float = 400.0
    """Width of the window, in HU. `Quantisation` maps it to the values of a stored voxel."""
    crop: Crop = "abdomen"
    """What is cut out before resampling: abdomen z-range and body box, body box, or nothing."""
    margin_mm: tuple[float, float, float] = (10.0, 5.0, 5.0)
    """Air kept around the found box, (z, y, x)."""
    resampling: Literal["area"] = "area"
    """Exact area average along axes that shrink, linear along axes that grow."""
    quantisation: VoxelType = VOXEL_TYPE
    """Type of a stored voxel. The window is applied, then its values are rounded half up."""
    compression: Compression = "none"
    """Compression of chunks: none, or LZ4 for remote or cold data."""
    min_slices: int = 8
    """A series with fewer slices is not a volume."""
    min_extent_mm: float = 20.0
    """A series that covers less is not a volume."""
    spacing_tolerance: float = 0.05
    """How far a gap between slices may be from the median gap, as a fraction of it."""
    uneven_slices: UnevenSlices = "refuse"
    """What to do with gaps beyond that: refuse the series, or interpolate it, flagged."""
    axis_tolerance_deg: float = 5.0
    """Axes nearer than this to the patient's axes are permuted and flipped, not resampled."""
    algorithm_version: int = ALGORITHM_VERSION
    """Version of the code that makes the pixels."""

    def __post_init__(self) -> None:
        _require(
            _PROFILE.fullmatch(self.profile) is not None,
            name="profile",
            expected="a lower case letter, then up to 30 lower case letters, digits and _",
            value=self.profile,
        )
        _require(
            len(self.grid) == 3 and all(type(n) is int and 1 <= n <= _MAX_SIZE for n in self.grid),
            name="grid",
            expected=f"three whole numbers from 1 to {_MAX_SIZE}",
            value=self.grid,
        )
        _require(
            math.prod(self.grid) <= _MAX_VOXELS,
            name="grid",
            expected=f"three sizes of at most {_MAX_VOXELS:,} voxels together",
            value=self.grid,
        )
        _require(
            len(self.margin_mm) == 3 and all(0 <= m <= _MAX_MARGIN_MM for m in self.margin_mm),
            name="margin_mm",
            expected=f"three lengths from 0 to {_MAX_MARGIN_MM:g}",
            value=self.margin_mm,
        )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            _require(
                not isinstance(value, bool) and low <= value <= high,  # NaN is not in the range
                name=name,
                expected=f"a number from {low:g} to {high:g}",
                value=value,
            )
        window_high = self.window_low_hu + self.window_width_hu
        _require(
            self.window_low_hu < _CT_HU[1] and window_high > _CT_HU[0],
            name="the window",
            expected=f"one that shows some HU from {_CT_HU[0]:g} to {_CT_HU[1]:g}",
            value=(self.window_low_hu, window_high),
        )
        for name, (least, most) in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            _require(
                type(value) is int and least <= value <= most,
                name=name,
                expected=f"a whole number from {least} to {most}",
                value=value,
            )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, name=name, expected=" or ".join(choices), value=value)

    def canonical_json(self) -> str:
        """Every field as sorted, compact JSON: the text that is hashed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def window(self) -> Quantisation:
        """The map from HU to stored voxels and back."""
        return Quantisation(self.window_low_hu, self.window_width_hu, self.dtype)

    @property
    def dtype(self) -> np.dtype[Voxel]:
        """NumPy's type of a stored voxel."""
        return np.dtype(self.quantisation)

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume in memory, and of its uncompressed chunk."""
        return math.prod(self.grid) * self.dtype.itemsize

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of `canonical_json`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:DIGEST_LENGTH]

    @property
    def name(self) -> str:
        """Folder name of the store: `<profile>-<digest>.zarr`."""
        return f"{self.profile}-{self.digest}{STORE_SUFFIX}"

    @property
    def volume_rules(self) -> tuple[int, float, float, str, float, tuple[float, float] | None]:
        """What decides whether a series is a volume. Specs in which it is equal share one decode.

        Of the window, only one that leaves out a part of VISIBLE_HU does: it may show nothing of a
        scan that other windows show.
        """
        return (
            self.min_slices,
            self.min_extent_mm,
            self.spacing_tolerance,
            self.uneven_slices,
            self.axis_tolerance_deg,
            None if self.visible_hu == VISIBLE_HU else self.visible_hu,
        )

    @property
    def visible_hu(self) -> tuple[float, float]:
        """The HU of which a box must hold some, so that its picture is not constant.

        VISIBLE_HU if the window contains it, else the window.
        """
        low, high = self.window_low_hu, self.window_low_hu + self.window_width_hu
        return VISIBLE_HU if low <= VISIBLE_HU[0] and high >= VISIBLE_HU[1] else (low, high)

    @property
    def gap_policy(self) -> GapPolicy:
        """What to do with uneven gaps between slices."""
        return GapPolicy(self.spacing_tolerance, self.uneven_slices)

    @property
    def window_low_hu(self) -> float:
        """HU at the lower end of the window."""
        return self.window_level_hu - self.window_width_hu / 2

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> StoreSpec:
        """Build from parsed JSON. Lists become tuples; lengths and HU become floats.

        Raises InputError for unknown or missing fields and for wrong types.
        """
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - names)
        if unknown:
            raise InputError(
                f"spec: unknown field {_shorten(repr(unknown[0]))}; known are {sorted(names)}"
            )
        if not {"profile", "grid"} <= set(data):
            raise InputError("spec: needs at least the fields profile and grid")
        values = data | {name: _to_float(name, data[name]) for name in _RANGES if name in data}
        for name in ("grid", "margin_mm"):
            if name in data:
                _require(
                    isinstance(data[name], list | tuple),
                    name=name,
                    expected="a list of three numbers",
                    value=data[name],
                )
                values[name] = tuple(data[name])
        if "margin_mm" in data:
            values["margin_mm"] = tuple(_to_float("margin_mm", m) for m in data["margin_mm"])
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"spec: a field has the wrong type ({error})") from error


_RANGES = {
    "window_level_hu": (-32_768.0, 32_767.0),
    "window_width_hu": (1.0, 65_536.0),
    "min_extent_mm": (0.0, 10_000.0),
    "spacing_tolerance": (1e-6, 10.0),
    "axis_tolerance_deg": (0.0, 45.0),
}
"""Fields of type float, and their lowest and highest values. JSON may have 50 for 50.0, which would
give another digest."""

_WHOLE_NUMBERS = {"min_slices": (2, 100_000), "algorithm_version": (1, 1_000_000)}
"""Fields of type int, and their lowest and highest values."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "crop": get_args(Crop),
    "resampling": ("area",),
    "quantisation": get_args(VoxelType),
    "compression": get_args(Compression),
    "uneven_slices": get_args(UnevenSlices),
}
"""Fields with a closed list of values, and these values."""


def _to_float(name: str, value: object) -> float:
    _require(
        isinstance(value, int | float) and not isinstance(value, bool),
        name=name,
        expected="a number",
        value=value,
    )
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError as error:
        raise InputError(f"spec: {name} must be a number that a float holds") from error


def _require(is_valid: bool, *, name: str, expected: str, value: object) -> None:
    if not is_valid:
        raise InputError(f"spec: {name} must be {expected}, got {_shorten(repr(value))}")


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


PRETRAIN = StoreSpec(profile="pretrain", grid=(32, 192, 192))
FINETUNE = StoreSpec(profile="finetune", grid=(96, 256, 256))
LOCALISE = StoreSpec(
    profile="localise",
    grid=(96, 64, 96),
    window_level_hu=100.0,
    window_width_hu=1000.0,
    crop="body",
)
"""The whole scan on a coarse grid, to find organs in it. A pixel in the plane of an adult's body is
about 4 mm wide. The window holds fat, organs with contrast medium and bone; lung is dark as air."""
PROFILES = {spec.profile: spec for spec in (PRETRAIN, FINETUNE, LOCALISE)}


def read_spec_file(path: Path) -> list[StoreSpec]:
    """Specs of a JSON file: one object, or a list of at most `MAX_SPECS` objects.

    Raises InputError, also for specs of another version of the algorithm, which this code cannot
    make.
    """
    data = read_json(path, "spec file", _MAX_SPEC_BYTES)
    items = data if isinstance(data, list) else [data]
    if not items or not all(isinstance(item, dict) for item in items):
        raise InputError(f"spec file {path}: expected an object or a list of objects")
    if len(items) > MAX_SPECS:
        raise InputError(f"spec file {path}: expected at most {MAX_SPECS} specs, got {len(items)}")
    specs = [StoreSpec.from_mapping(item) for item in items]
    for spec in specs:
        if spec.algorithm_version != ALGORITHM_VERSION:
            raise InputError(
                f"spec file {path}: algorithm_version {spec.algorithm_version} of another voco; "
                f"this one makes version {ALGORITHM_VERSION}: leave the field out, or use that voco"
            )
    return specs


def distinct_specs(specs: list[StoreSpec]) -> list[StoreSpec]:
    """The specs without repeats. Raises InputError for two specs of one profile name."""
    by_profile: dict[str, StoreSpec] = {}
    for spec in specs:
        other = by_profile.setdefault(spec.profile, spec)
        if other != spec:
            raise InputError(
                f"two different specs are named {spec.profile!r} "
                f"({other.digest} and {spec.digest}); give one of them another profile name"
            )
    return list(by_profile.values())


def read_spec(store: ReadableStorage) -> StoreSpec:
    """The spec in a store's own metadata, checked against its digest and the folder's name.

    Raises InputError for a folder that is no store, another format, and a spec that was edited.
    """
    attributes = _group_attributes(store)
    if attributes.get("format") != FORMAT:
        raise InputError(
            f"{store}: store format {attributes.get('format')!r}, expected {FORMAT}; use the voco "
            "that made it, or make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    differing = sorted(set(attributes["spec"]) ^ {field.name for field in fields(StoreSpec)})
    if differing:
        raise InputError(
            f"{store}: another version of voco made it, their specs differ in "
            f"{', '.join(differing)}; "
            "make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    spec = StoreSpec.from_mapping(attributes["spec"])
    if spec.digest != attributes.get("spec_digest") or store.name != spec.name:
        raise InputError(
            f"{store}: the spec inside gives {spec.name}, which is not this store's digest and "
            "name; the spec was edited or the folder renamed: restore it, or preprocess anew"
        )
    return spec


def _group_attributes(store: ReadableStorage) -> dict[str, Any]:
    try:
        metadata = json.loads(store.read(GROUP_METADATA))
        attributes = metadata["attributes"]["voco"]
        if not isinstance(attributes["spec"], dict):
            raise TypeError("spec is not an object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{store}: expected a store made by voco preprocess "
            f"(a folder <profile>-<digest>.zarr), cannot read its metadata ({error})"
        ) from error
    return dict(attributes)
