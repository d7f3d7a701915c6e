"""How much memory is left: of this machine, of this container, of a device."""

from __future__ import annotations

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on `device`; on the CPU, without swapping."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min(_of_the_machine(), _of_the_container())


def _of_the_machine() -> int:
    """MemAvailable, proc_meminfo(5): free, and what the page cache would give back."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{MEMINFO}: expected a line MemAvailable")


def _of_the_container() -> int:
    """What a memory limit leaves (cgroup v2), page cache counted as free; else a huge number."""
    limit = _text(CGROUP / "memory.max")
    used = _text(CGROUP / "memory.current")
    if limit is None or used is None or limit == "max":
        return 2**63
    kinds = dict(line.split() for line in (_text(CGROUP / "memory.stat") or "").splitlines())
    return int(limit) - int(used) + int(kinds.get("inactive_file", 0))


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
