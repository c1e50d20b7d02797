"""The forward pass of gpt-oss as a row of kernels: `forward` names the steps. Compare backends/torch/network.py.

The host decides nothing on the way and waits for nothing, so that the whole pass can be captured in a CUDA graph. The
residual stream is float32; everything else is in the precision of the weights. Dense products: dense.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gpt_oss.backends.torch import network as plain
from gpt_oss.backends.torch.cache import Cache
from gpt_oss.backends.torch.weights import Vocabulary
from gpt_oss.backends.triton import attention, experts, route
from gpt_oss.backends.triton.dense import linear
from gpt_oss.backends.triton.norm import add_norm
from gpt_oss.backends.triton.rotary import rotate_and_store
from gpt_oss.backends.triton.weights import Block, NetworkWeights
from gpt_oss.model.config import ModelConfig


@dataclass(frozen=True)
class Gpu:
    """processors: that run programs side by side. shared_memory: bytes that a program can have at most."""

    processors: int
    shared_memory: int


@dataclass(frozen=True)
class Batch:
    """The new tokens of all sequences, one after the other; all on the device.

    tokens: int64 [tokens]. positions: int32 [tokens], below 0 for padding. sequences: int32 [tokens], each token's row
    of the block tables, int32 [sequences, blocks]. runs: see attention.prefill; None where tokens are few and attend
    one by one. wanted: int64, the rows whose logits are asked for; None is all of them.
    """

    tokens: Tensor
    positions: Tensor
    sequences: Tensor
    table: Tensor
    window_table: Tensor
    runs: Tensor | None = None
    wanted: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """Weights with what else a pass needs. cosines, sines: float32 [positions, head_dim / 2].

    add_up: the sum of a tensor over the processes that share the model; None where there is one.
    """

    config: ModelConfig
    weights: NetworkWeights
    cache: Cache
    block_tokens: int
    cosines: Tensor
    sines: Tensor
    gpu: Gpu
    add_up: Callable[[Tensor], Tensor] | None = None

    def forward(self, batch: Batch) -> Tensor:
        """Logits [wanted, vocab]; keys and values of the batch are written to the cache."""
        config, weights = self.config, self.weights
        x = self._embed(batch.tokens)
        dtype, eps = weights.embedding.rows.dtype, config.rms_norm_eps
        terms: Tensor | None = None
        shares: Tensor | None = None
        for layer, block in enumerate(weights.blocks):
            t = add_norm(x, block.attention_norm, eps, dtype, terms, shares)
            t = self._attention(t, batch, layer, block)
            t = add_norm(x, block.mlp_norm, eps, dtype, self._whole(linear(t, block.out_weight, block.out_bias)))
            terms, shares = self._experts(t, batch, block)
        t = add_norm(x, weights.norm, eps, dtype, terms, shares)
        return self._unembed(t if batch.wanted is None else t[batch.wanted])

    def _attention(self, t: Tensor, batch: Batch, layer: int, block: Block) -> Tensor:
        """[tokens, heads * head_dim]."""
        config = self.config
        windowed = config.is_windowed(layer)
        keys, values = self.cache.pool(layer)
        table = batch.window_table if windowed else batch.table
        window = config.sliding_window if windowed else attention.EVERYTHING
        pages = attention.Pages(keys, values, table, self.block_tokens, window)
        qkv = linear(t, block.qkv_weight, block.qkv_bias)
        positions, sequences = batch.positions, batch.sequences
        q = rotate_and_store(
            qkv, self.cosines, self.sines, positions, sequences, table, keys, values, self.block_tokens
        )
        if batch.runs is not None:
            return attention.prefill(q, pages, block.sinks, positions, sequences, batch.runs).flatten(1)
        few_keys = windowed and window <= 4 * attention.DECODE.keys
        splits = 1 if few_keys else attention.splits_for(len(q), keys.shape[1], self.gpu.processors)
        return attention.decode(q, pages, block.sinks, positions, sequences, splits).flatten(1)

    def _experts(self, t: Tensor, batch: Batch, block: Block) -> tuple[Tensor, Tensor | None]:
        """What to add to the stream, see add_norm: terms [tokens, k, hidden] and shares, or their sum."""
        config = self.config
        router_logits = linear(t, block.gate_weight, block.gate_bias)
        k = config.experts_per_token
        tile = experts.tile_tokens(len(t) * k, config.num_experts, self.gpu.shared_memory)
        groups, shares = route.assign(router_logits, batch.positions, k, tile)
        h = experts.mlp1(t, block.mlp1, groups, config.swiglu_limit)
        terms = experts.mlp2(h, block.mlp2, groups, len(t))
        if self.add_up is None:
            return terms, shares
        return self.add_up((terms * shares[..., None]).sum(1)), None

    def _embed(self, tokens: Tensor) -> Tensor:
        """float32 [tokens, hidden]."""
        table = self.weights.embedding
        return (table.rows[tokens] if self.add_up is None else self.add_up(plain.embed(tokens, table))).float()

    def _unembed(self, t: Tensor) -> Tensor:
        table: Vocabulary = self.weights.unembedding
        return linear(t, table.rows) if self.add_up is None else self.add_up(plain.unembed(t, table))

    def _whole(self, part: Tensor) -> Tensor:
        return part if self.add_up is None else self.add_up(part)
