"""LoRA on attention and experts: a network whose weights are frozen, experts in MXFP4 as they lie on disk, and beside
them small matrices that learn. y = W x + alpha / rank * B A x (Hu et al., arXiv:2106.09685).

Knows no file formats: model/adapter.py reads and writes what `adapter_of` gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear

from gpt_oss.backends.torch.weights import decode_mxfp4
from gpt_oss.errors import ParameterError
from gpt_oss.model.adapter import ATTENTION, EXPERTS, Adapter, LowRank, sizes
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Weights
from gpt_oss.training.network import Block, Network, canonical_name, take_apart


@dataclass(frozen=True)
class LoraOptions:
    """rank and alpha as in the formula above. attention, experts: where. Raises ParameterError for neither."""

    rank: int = 8
    alpha: float = 16.0
    attention: bool = True
    experts: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ParameterError(f"rank and alpha must be over 0, not {self.rank} and {self.alpha}")
        if not (self.attention or self.experts):
            raise ParameterError("LoRA needs a place: attention, experts, or both")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def lora_network(
    weights: Weights,
    options: LoraOptions,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    recompute: bool = True,
    seed: int = 0,
) -> Network:
    """A network that is `weights` until it has learnt: A random, B zero.

    dtype: what frozen matrices are kept in, MXFP4 ones apart; float32 where training is in float32.
    """
    config = weights.config
    with torch.device("meta"):
        network = Network(config, recompute=recompute)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(config.num_hidden_layers):
        block = cast(Block, network.block[layer])
        if options.attention:
            attention: nn.Module = block.attn
            attention.qkv = LoraLinear(block.attn.qkv, config, ATTENTION[:3], options)
            attention.out = LoraLinear(block.attn.out, config, ATTENTION[3:], options)
        for name in ("mlp1", "mlp2"):
            frozen = FrozenExperts.of(weights, layer, name, options, dtype, device)
            setattr(block.mlp, name, frozen)
    _fill(network, weights, dtype, device, generator)
    return network


@torch.no_grad()
def _fill(
    network: Network, weights: Weights, dtype: torch.dtype, device: torch.device | str, generator: torch.Generator
) -> None:
    """Every parameter that is still without memory: what learns begins as LoRA does, the rest is the checkpoint's."""
    for path, module in list(network.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{path}.{name}"
            kind = name.rpartition("_")[2]
            if kind in ("a", "b"):
                values = torch.zeros(parameter.shape)
                if kind == "a":
                    bound = 1 / math.sqrt(parameter.shape[-1])
                    values.uniform_(-bound, bound, generator=generator)
                module.register_parameter(name, nn.Parameter(values.to(device)))
            elif parameter.is_meta:
                array = weights.tensor(canonical_name(full.replace(".base.", "."))).astype("float32")
                wide = parameter.ndim < 2 or full.endswith("gate.weight")  # small, and they decide
                frozen = torch.from_numpy(array).to(device, torch.float32 if wide else dtype)
                module.register_parameter(name, nn.Parameter(frozen, requires_grad=False))


class LoraLinear(nn.Module):
    """A frozen linear layer whose outputs are those of several projections in a row, each with its own A and B."""

    def __init__(self, base: nn.Linear, config: ModelConfig, projections: Sequence[str], options: LoraOptions) -> None:
        super().__init__()
        self.base = base
        self.projections = tuple(projections)
        self.scale = options.scale
        for name in projections:
            inputs, outputs = sizes(config, name)
            self.register_parameter(f"{name}_a", nn.Parameter(torch.empty(options.rank, inputs, device="meta")))
            self.register_parameter(f"{name}_b", nn.Parameter(torch.empty(outputs, options.rank, device="meta")))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.base.weight
        bias: Tensor = self.base.bias
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(weight.dtype)
            bias = bias.to(weight.dtype)
        added = [linear(linear(x, getattr(self, f"{p}_a")), getattr(self, f"{p}_b")) for p in self.projections]
        return linear(x, weight, bias) + self.scale * torch.cat(added, dim=-1)


class FrozenExperts(nn.Module):
    """One linear layer an expert, frozen, with an A [experts, rank, in] and B [experts, out, rank] beside it.

    As network.ExpertLinear, it gives gates before ups (`pairs_apart`). MXFP4 weights are decoded an expert at a time,
    in the forward pass and again in the backward one.
    """

    def __init__(self, stored: Mapping[str, Tensor], bias: Tensor, *, pairs_apart: bool, scale: float) -> None:
        super().__init__()
        self.pairs_apart = pairs_apart
        self.scale = scale
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        for name, tensor in stored.items():
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.names = tuple(stored)

    @classmethod
    def of(
        cls,
        weights: Weights,
        layer: int,
        name: str,
        options: LoraOptions,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> FrozenExperts:
        base = f"block.{layer}.mlp.{name}"
        pairs_apart = name == "mlp1"

        def read(tensor_name: str) -> Tensor:
            array = weights.tensor(tensor_name)
            if array.dtype.name == "uint8":
                tensor = torch.from_numpy(array.copy())
            else:
                tensor = torch.from_numpy(array.astype("float32")).to(dtype)
            return (take_apart(tensor) if pairs_apart else tensor).to(device)

        kinds = ("blocks", "scales") if weights.quantized else ()
        stored = {kind: read(f"{base}_weight.{kind}") for kind in kinds} or {"weight": read(f"{base}_weight")}
        experts = cls(stored, read(f"{base}_bias"), pairs_apart=pairs_apart, scale=options.scale)
        if options.experts:
            config = weights.config
            inputs, outputs = sizes(config, EXPERTS[0] if pairs_apart else EXPERTS[1])
            count, rank = config.num_experts, options.rank
            experts.lora_a = nn.Parameter(torch.empty(count, rank, inputs, device="meta"))
            experts.lora_b = nn.Parameter(torch.empty(count, outputs, rank, device="meta"))
        return experts

    def forward(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """x [rows, in], of which the first counts[0] are for expert 0, the next for expert 1, and so on."""
        a, b = (None if p is None else p.to(x.dtype) for p in (self.lora_a, self.lora_b))
        if b is not None and self.pairs_apart:
            b = take_apart(b)
        results = []
        for expert, part in enumerate(torch.split(x, list(counts))):
            stored = [cast(Tensor, getattr(self, name))[expert] for name in self.names]
            y = cast(Tensor, _Frozen.apply(part, *stored))  # type: ignore[no-untyped-call]
            y = y + cast(Tensor, self.bias)[expert].to(x.dtype)
            if a is not None and b is not None:
                y = y + self.scale * ((part @ a[expert].T) @ b[expert].T)
            results.append(y)
        return torch.cat(results)


class _Frozen(Function):
    """x W^T for a W that is stored as MXFP4 (blocks, scales) or as it is; only x has a gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, *stored: Tensor) -> Tensor:
        context.stored = stored
        return x @ _decoded(stored, x.dtype).T

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient @ _decoded(context.stored, gradient.dtype), *(None for _ in context.stored)


def _decoded(stored: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return decode_mxfp4(stored[0], stored[1], dtype) if len(stored) == 2 else stored[0].to(dtype)


# ---- adapters -------------------------------------------------------------------------------------------------------


def adapter_of(network: Network, options: LoraOptions, base: str = "") -> Adapter:
    """What a network of `lora_network` has learnt. base: the checkpoint's name, for people."""
    parts: dict[tuple[int, str], LowRank] = {}
    for layer, name, a, b in _pairs(network):
        parts[layer, name] = LowRank(*(each.detach().to("cpu", torch.float32).numpy().copy() for each in (a, b)))
    return Adapter(options.rank, options.alpha, parts, base)


@torch.no_grad()
def load_adapter(network: Network, adapter: Adapter) -> None:
    """Go on from what an adapter has learnt. Raises ParameterError where it is of another rank or other places."""
    pairs = {(layer, name): (a, b) for layer, name, a, b in _pairs(network)}
    if set(pairs) != set(adapter.parts):
        raise ParameterError("the adapter is not of the layers and projections that learn here")
    for key, (a, b) in pairs.items():
        for parameter, values in ((a, adapter.parts[key].a), (b, adapter.parts[key].b)):
            if parameter.shape != values.shape:
                raise ParameterError(f"the adapter has rank {adapter.rank}, which is not the rank chosen here")
            parameter.copy_(torch.from_numpy(values.copy()))


def _pairs(network: Network) -> list[tuple[int, str, Tensor, Tensor]]:
    """(layer, projection, A, B) of everything that learns."""
    pairs: list[tuple[int, str, Tensor, Tensor]] = []
    for layer, block in enumerate(network.block):
        block = cast(Block, block)
        modules: list[nn.Module] = [block.attn.qkv, block.attn.out]
        for module in modules:
            if isinstance(module, LoraLinear):
                pairs += [
                    (layer, name, getattr(module, f"{name}_a"), getattr(module, f"{name}_b"))
                    for name in module.projections
                ]
        for name, each in zip(EXPERTS, (block.mlp.mlp1, block.mlp.mlp2), strict=True):
            if isinstance(each, FrozenExperts) and each.lora_a is not None and each.lora_b is not None:
                pairs.append((layer, name, each.lora_a, each.lora_b))
    return pairs
