"""What the three layouts share: the opened checkpoint, and the small readers that each layout puts together.

A layout answers for every canonical tensor with a `Read`; most are views of the mapped file. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from gpt_oss.errors import CheckpointError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.safetensors_file import SafetensorsFile, dtype_name
from gpt_oss.model.tensors import BF16, E8M0_BIAS, F32, Array, ExpertWeights, Index, TensorSpec

LayoutName: TypeAlias = Literal["original", "huggingface", "metal"]
Read: TypeAlias = Callable[[Index], Array]


class Checkpoint:
    """A checkpoint on disk, whatever its layout, under canonical names (model.md, `original/`). Any thread may read.

    path: the folder, or metal's file. layout: "original", "huggingface" or "metal". quantized: experts are MXFP4;
    False for a dequantised fine-tune, whose experts are bf16 `mlp1_weight` and `mlp2_weight` [experts, out, in].
    """

    def __init__(
        self,
        path: Path,
        layout: LayoutName,
        config: ModelConfig,
        quantized: bool,
        readers: Mapping[str, Read],
        stored_scales: Mapping[str, Read] | None = None,
        scale_bias: int = E8M0_BIAS,
    ) -> None:
        self.path = path
        self.layout = layout
        self.config = config
        self.quantized = quantized
        self._readers = readers
        self._stored_scales = stored_scales or {}
        self._scale_bias = scale_bias

    def tensor(self, name: str, index: Index = ()) -> Array:
        """The part `index` (slices over the leading axes) of a tensor; only that part is read.

        A read-only view of the mapped file wherever the layout allows, else a copy. bf16, uint8 or (norm scales)
        float32. Raises CheckpointError for a name that the checkpoint does not have.
        """
        read = self._readers.get(name)
        if read is None:
            raise CheckpointError(f"{self.path} has no tensor {name!r}" if self._readers else f"{self.path} is closed")
        return read(index)

    def experts(self, layer: int) -> ExpertWeights:
        """One layer's MXFP4 experts, nothing copied. Raises CheckpointError where experts are not MXFP4."""
        if not self.quantized:
            raise CheckpointError(f"{self.path}: the experts are bf16, not MXFP4", hint="Convert it with --to metal.")
        mlp = f"block.{layer}.mlp"

        def scales(name: str) -> Array:
            return self._stored_scales[name](()) if name in self._stored_scales else self.tensor(name)

        return ExpertWeights(
            mlp1_blocks=self.tensor(f"{mlp}.mlp1_weight.blocks"),
            mlp1_scales=scales(f"{mlp}.mlp1_weight.scales"),
            mlp1_bias=self.tensor(f"{mlp}.mlp1_bias"),
            mlp2_blocks=self.tensor(f"{mlp}.mlp2_weight.blocks"),
            mlp2_scales=scales(f"{mlp}.mlp2_weight.scales"),
            mlp2_bias=self.tensor(f"{mlp}.mlp2_bias"),
            scale_bias=self._scale_bias,
        )

    def close(self) -> None:
        """Let go of the files. Views that were handed out stay valid: the last one unmaps its file."""
        self._readers, self._stored_scales = {}, {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stored(folder: Path, shards: Mapping[str, SafetensorsFile], name: str, spec: TensorSpec) -> Read:
    """The reader of a tensor that lies in the shards as `spec` says, checked from the header alone.

    A float32 tensor may be stored as bf16 (norm scales in the Hugging Face layout): widening is exact.
    """
    file = shards.get(name)
    if file is None:
        raise CheckpointError(
            f"{folder}: tensor {name!r} is missing",
            hint="A shard is missing, or config.json is another model's.",
        )
    found = file.tensors[name].spec
    if found.shape != spec.shape:
        raise CheckpointError(
            f"{file.path}: tensor {name!r} has shape {list(found.shape)}, and config.json asks for {list(spec.shape)}"
        )
    if found.dtype == spec.dtype:
        return lambda index: file.array(name)[index]
    if found.dtype == BF16 and spec.dtype == F32:
        return lambda index: file.array(name)[index].astype(np.float32)
    raise CheckpointError(
        f"{file.path}: tensor {name!r} is {dtype_name(found.dtype)}, and gpt-oss has {dtype_name(spec.dtype)} there"
    )


def concatenated(parts: Sequence[tuple[int, Read]]) -> Read:
    """One tensor from (rows, reader) parts one below the other; reads only the rows that are asked for."""
    total = sum(rows for rows, _ in parts)

    def read(index: Index) -> Array:
        wanted = range(total)[index[0] if index else slice(None)]
        low, high = (min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1) if wanted else (0, 0)
        pieces: list[Array] = []
        first = 0
        for rows, part in parts:
            begin, end = max(low - first, 0), min(high - first, rows)
            if begin < end or (not wanted and not pieces):
                pieces.append(part((slice(begin, max(begin, end)), *index[1:])))
            first += rows
        joined = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return joined[:: wanted.step] if wanted.step != 1 else joined

    return read
