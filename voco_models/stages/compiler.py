"""What `torch.compile` needs on this machine."""

from __future__ import annotations

import os
import shutil

import torch

from voco_data.errors import InputError

CPU_COMPILERS = ("g++", "clang++")
"""C++ compilers that are looked for on the path, after the one named by the variable CXX."""


def check_compiler(device: torch.device) -> None:
    """Raise InputError if backbones are to be compiled for the CPU and there is no C++ compiler."""
    if device.type != "cpu" or has_cpu_compiler():
        return
    raise InputError(
        f"recipe: compile_cpu needs a C++ compiler, expected {' or '.join(CPU_COMPILERS)} on the "
        "path or its name in CXX, found none; install one, or set compile_cpu=false"
    )


def has_cpu_compiler() -> bool:
    """Whether there is a C++ compiler for `torch.compile` on the CPU."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else CPU_COMPILERS))
