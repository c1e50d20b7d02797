"""The processes that hold one model together, under torchrun: rank 0 leads, the others do as it says.

Two kinds of traffic: sums of tensors in the middle of a forward pass (gloo on CPUs, nccl on GPUs), and messages from
rank 0 that say what to compute. Knows nothing of networks.
"""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# A follower waits for the next message as long as a server may be idle.
_IDLE = timedelta(days=3650)


class Ranks:
    """This process among all of them. Without torchrun it is alone, and every method does nothing or next to it."""

    def __init__(self, device: torch.device) -> None:
        """Joins the other processes; waits until all have. Raises what torch.distributed raises."""
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)  # not sooner: a process can join only once
        alone = not dist.is_initialized()
        self.rank = 0 if alone else dist.get_rank()
        self.count = 1 if alone else dist.get_world_size()
        self._messages = None if self.count == 1 else dist.new_group(backend="gloo", timeout=_IDLE)

    def add_up(self, x: Tensor) -> Tensor:
        """The sum of every process's x, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def tell(self, message: Any) -> None:
        """Rank 0 sends a message to all others."""
        if self.count > 1:
            dist.broadcast_object_list([message], src=0, group=self._messages)

    def hear(self) -> Any:
        """The next message of rank 0."""
        box = [None]
        dist.broadcast_object_list(box, src=0, group=self._messages)
        return box[0]

    def gather(self, item: Any) -> list[Any]:
        """In rank 0 every process's item, by rank; in the others an empty list."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count if self.rank == 0 else []
        dist.gather_object(item, items or None, dst=0, group=self._messages)
        return items
