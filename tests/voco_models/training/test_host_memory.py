"""Memory that a step frees stays with the process."""

from __future__ import annotations

import subprocess
import sys

import torch

from tests.support.project import PROJECT
from voco_models.training.host_memory import keep_freed_memory

COUNT_FAULTS = """
import resource, sys, torch
from voco_models.training.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory(torch.device("cpu"))
def step():
    torch.ones(64 * 2**20, dtype=torch.uint8)
for _ in range(20):  # the heap grows until freed parts are large enough
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64 * 2**20 // 4096


def count_faults(mode: str) -> int:
    """Page faults of five tensors of 64 MiB, after 20, each freed before the next one."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_pages_are_not_cleared_again() -> None:
    assert count_faults("default") >= 5 * PAGES
    assert count_faults("keep") < PAGES / 10


def test_a_gpu_needs_nothing() -> None:
    assert not keep_freed_memory(torch.device("cuda"))
