"""Volumes that stay in memory for a whole training, on the host or on the device.

They have the type of their store. Each is read and checked once, if there is enough free memory.
Batches are equal to those of streaming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data.items import Item, torch_dtype

Residence = Literal["none", "ram", "device"]
RESIDENCES: tuple[Residence, ...] = ("none", "ram", "device")
_VOLUMES_PER_COPY = 16
"""Volumes that are read to the host before they are copied to a device."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


class ResidentVolumes:
    """The volumes of some items, one tensor (N, Z, Y, X) of the stores' dtype."""

    def __init__(
        self, items: Sequence[Item], device: torch.device, threads: int, *, on_device: bool
    ) -> None:
        """Read every item once to `device`; `on_device` if batches are made and used there.

        Raises InputError if the volumes do not fit in the free memory, and what a reader raises,
        such as StoreCorrupt.
        """
        unique = {_identify(item): item for item in items}
        grid, dtype = items[0].store.grid, items[0].store.dtype
        need = len(unique) * math.prod(grid) * dtype.itemsize
        free = free_bytes(device)
        if need > free:
            memory = "in RAM" if device.type == "cpu" else f"on {device}"
            raise InputError(
                f"resident: {len(unique)} volumes of {grid} need {need} bytes {memory}, "
                f"{free} are free; train without --resident, or on fewer volumes"
            )
        self.volumes = torch.empty((len(unique), *grid), dtype=torch_dtype(dtype), device=device)
        self.on_device = on_device
        self._items = list(unique.values())
        self._indices = {key: index for index, key in enumerate(unique)}
        with ThreadPoolExecutor(threads, thread_name_prefix="voco-reader") as pool:
            for start in range(0, len(self._items), _VOLUMES_PER_COPY):
                group = self._items[start : start + _VOLUMES_PER_COPY]
                target = self.volumes[start : start + len(group)]
                host = target if device.type == "cpu" else torch.empty_like(target, device="cpu")
                for read in [
                    pool.submit(item.store.read, item.row, out)
                    for item, out in zip(group, host.numpy(), strict=True)
                ]:
                    read.result()
                if host is not target:
                    target.copy_(host)

    def indices_of(self, items: Sequence[Item]) -> Tensor:
        """Index of each item in `volumes`, int64 (len(items),). KeyError for a missing one."""
        return torch.tensor([self._indices[_identify(item)] for item in items], dtype=torch.int64)

    def select(self, indices: Tensor) -> Tensor:
        """A copy of the volumes `indices` (B,): (B, Z, Y, X), on the device of the volumes."""
        return self.volumes.index_select(0, indices.to(self.volumes.device))

    def copy_volume(self, index: int, out: npt.NDArray[Any]) -> None:
        """Copy a volume that is in RAM to `out` (Z, Y, X), converted to its dtype."""
        torch.from_numpy(out).copy_(self.volumes[index])


def make_resident(
    items: Sequence[Item], residence: Residence, device: torch.device, threads: int
) -> ResidentVolumes | None:
    """Read the items' volumes to RAM or to `device`; None if `residence` is `none`.

    Raises InputError for an unknown residence, and as `ResidentVolumes`.
    """
    if residence not in RESIDENCES:
        raise InputError(f"resident: expected one of {', '.join(RESIDENCES)}, got {residence!r}")
    if residence == "none":
        return None
    if residence == "device":
        return ResidentVolumes(items, device, threads, on_device=True)
    return ResidentVolumes(items, torch.device("cpu"), threads, on_device=False)


def _identify(item: Item) -> tuple[int, int]:
    return (id(item.store), item.row)


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that are free on `device`; on the CPU, without swapping."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min(_free_in_machine(), _free_in_container())


def _free_in_machine() -> int:
    """MemAvailable of proc_meminfo(5): free memory, and page cache that can be dropped."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{MEMINFO}: expected a line MemAvailable")


def _free_in_container() -> int:
    """Bytes below the limit of cgroup v2, with page cache as free memory; 2**63 without a limit."""
    limit = _read_text(CGROUP / "memory.max")
    used = _read_text(CGROUP / "memory.current")
    if limit is None or used is None or limit == "max":
        return 2**63
    kinds = dict(line.split() for line in (_read_text(CGROUP / "memory.stat") or "").splitlines())
    return int(limit) - int(used) + int(kinds.get("inactive_file", 0))


def _read_text(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
