"""Let a kernel start while the one before it still ends (programmatic dependent launch, from Hopper on): its programs
take their places, read weights, and wait only before they touch what others wrote. Elsewhere nothing of it is compiled.

In a chain of short kernels this hides what a launch costs. It is right only if every kernel that is launched so calls
`await_inputs`: then all that was launched earlier has ended where it returns, not just the kernel before.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def await_inputs(OVERLAP: tl.constexpr):
    """Before the first access to memory that an earlier kernel writes or reads; weights may be read before."""
    if OVERLAP:
        gdc_launch_dependents()  # programs of the next kernel start when all of this one have, and wait in turn
        gdc_wait()


def overlapped(x: Tensor) -> dict[str, bool]:
    """Options of a launch on x's device."""
    return {"OVERLAP": True, "launch_pdl": True} if x.is_cuda and _possible(x.device) else {"OVERLAP": False}


@cache
def _possible(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
