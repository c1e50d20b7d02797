"""What csrc/*_bindings.cc binds. bfloat16 goes as its bits, uint16; every array is C-contiguous."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_oss.model.config import ModelConfig

_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_U16 = NDArray[np.uint16]
_U8 = NDArray[np.uint8]

BLOCK_TOKENS: int

def build_info() -> dict[str, str]: ...
def instruction_sets() -> list[str]: ...
def int8_sizes(rows: int, cols: int) -> tuple[int, int]: ...
def quantise_int8(weight: _U16, begin: int, end: int, values: _U8, scales: _U16) -> None: ...
def row_norms(weight: _U16, begin: int, end: int, norms: _F32) -> None: ...
def __getattr__(name: str) -> Any: ...  # single kernels, for tests and benchmarks

class Linear:
    def __init__(self, weight: _U16, int8_values: _U8, int8_scales: _U16) -> None: ...

class Model:
    """Weights go in by add_layer, once a layer, and finish; everything after needs them."""

    cache_blocks: int
    window_cache_blocks: int
    attention_kernel: str

    def __init__(
        self,
        config: ModelConfig,
        isa: str,
        precision: str,
        kv: str,
        threads: int,
        cache_blocks: int,
        window_cache_blocks: int,
        read_ahead: bool,
    ) -> None: ...
    def add_layer(
        self,
        attention_norm: _F32,
        qkv: Linear,
        qkv_bias: _F32,
        sinks: _F32,
        out: Linear,
        out_bias: _F32,
        mlp_norm: _F32,
        gate: _U16,
        gate_bias: _F32,
        mlp1_blocks: _U8,
        mlp1_scales: _U8,
        mlp1_bias: _U16,
        mlp2_blocks: _U8,
        mlp2_scales: _U8,
        mlp2_bias: _U16,
        scale_bias: int,
    ) -> None: ...
    def finish(self, embedding: _U16, norm: _F32, unembedding: Linear, unembedding_norms: _F32) -> None: ...
    def forward(self, batch: Sequence[tuple[_I32, int, _I32, _I32, int]]) -> int: ...
    def logits(self, out: _F32) -> None: ...
    def sample(self, row: int, temperature: float, seed: int, position: int) -> int: ...
    def block_bytes(self, windowed: bool) -> int: ...
    def read_cache(self, blocks: _I32, window_blocks: _I32, data: _U8) -> None: ...
    def write_cache(self, blocks: _I32, window_blocks: _I32, data: _U8) -> None: ...
