"""A trained network as a checkpoint: its parameters under canonical names, in any of the three layouts.

Experts are rounded to MXFP4 as released checkpoints have them, or kept in bf16. Knows no formats: model/convert writes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from gpt_oss.model import mxfp4
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.model.layout import LayoutName
from gpt_oss.model.tensors import Array, Index, canonical_tensors
from gpt_oss.training.network import Network, canonical_name


class NetworkWeights:
    """The weights of a network, as model/tensors.Weights has them; read one at a time, so nothing is there twice.

    quantized: experts as MXFP4 blocks and scales, else bf16. All else is rounded to bf16, norm scales stay float32.
    With a `vocabulary` of its own the network has few rows; every other token id gets the shared one.
    """

    def __init__(self, network: Network, *, quantized: bool = True) -> None:
        self._network = network
        self._quantized = quantized
        self._parameters = {canonical_name(name): parameter for name, parameter in network.named_parameters()}
        self._specs = canonical_tensors(network.config, quantized)

    @property
    def config(self) -> ModelConfig:
        return self._network.config

    @property
    def quantized(self) -> bool:
        return self._quantized

    def tensor(self, name: str, index: Index = ()) -> Array:
        """The part `index` of a tensor. Raises KeyError for a name that the network does not have."""
        spec = self._specs[name]
        base, _, kind = name.rpartition(".")
        if kind in ("blocks", "scales"):
            blocks, scales = mxfp4.encode(self._values(base)[index[:2]])  # rows are encoded apart from one another
            encoded: Array = blocks if kind == "blocks" else scales
            return encoded[(slice(None), slice(None), *index[2:])]
        return self._values(name)[index].astype(spec.dtype)

    def _values(self, name: str) -> Array:
        parameter = self._parameters[name].detach().to("cpu", torch.float32)
        if name in ("embedding.weight", "unembedding.weight") and self._network.vocabulary is not None:
            parameter = parameter[self._network.rows(torch.arange(self.config.vocab_size))]
        values: Array = parameter.numpy()
        return values


def export(
    network: Network,
    destination: str | Path,
    layout: LayoutName,
    *,
    quantized: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write a network as a checkpoint in `layout`; returns its path. See model/convert.write_checkpoint for errors."""
    weights = NetworkWeights(network, quantized=quantized)
    return write_checkpoint(destination, weights, layout, overwrite=overwrite, progress=progress)
