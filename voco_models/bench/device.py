"""What is measured on a device: its time, its peak memory, its fastest matrix product, its name."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from typing import Any

import torch
from torch import Tensor

from voco_models.bench.worker import serve
from voco_models.training import current_commit

PRODUCTS = 8
"""Matrix products of one repeat."""
SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows of the square matrices: large enough for the highest rate, and still quick."""


def main(device: str, precision: str) -> None:
    """Serve the rate of a matrix product on `device`, in FLOP/s, as `flops_per_s`."""
    serve(lambda: {"flops_per_s": measure_product(torch.device(device), dtype_of(precision))})


def dtype_of(precision: str) -> torch.dtype:
    """The type of a precision's matrix products: `fp32`, or `bf16` (autocast)."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def measure_product(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of square matrix products of `dtype`, the best of `PRODUCTS`.

    A product of N x N matrices counts as 2 N^3 operations.
    """
    n = side or SIDES[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(PRODUCTS):
        synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def computes_in_bf16() -> bool:
    """Whether this processor has instructions for products in bf16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def synchronise(device: torch.device) -> None:
    """Wait until all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Largest memory so far, in bytes, of this process.

    CUDA: `allocated_bytes` by tensors, and `reserved_bytes` by PyTorch. CPU: `resident_bytes`, of
    the whole process with its libraries.
    """
    if device.type == "cuda":
        return {
            "allocated_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
    # Linux counts ru_maxrss in KiB.
    return {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def make_volumes(count: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Random uint8 volumes (count, *grid) on `device`, alike on all devices."""
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *grid), generator=drawn, dtype=torch.uint8).to(device)


def describe_device(device: torch.device) -> dict[str, Any]:
    """The device, its driver and settings, threads of the CPU, and the commit of this code.

    What was not measured on a GPU says so.
    """
    found: dict[str, Any] = {"commit": current_commit(), "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return found | {"device": "cpu", "gpu": "not measured on a GPU"}
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "device": str(device),
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": _read_driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
    }


def _read_driver() -> str | None:
    """Version of NVIDIA's driver; None without its tool nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] or None
