"""A checkpoint in a few megabytes: only the embedding rows that were ever trained are stored, all others are one row.

One safetensors file, all in bf16 but norms: the canonical tensors with plain experts, `embedding.weight` and
`unembedding.weight` with a row for each token id in `vocabulary` (I32) and a last one for every other; `config` (U8) is
the original layout's config.json. `demo_folder` expands the one that comes with the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from gpt_oss.errors import CheckpointError
from gpt_oss.model import mxfp4
from gpt_oss.model.config import ModelConfig, load_config, original_json
from gpt_oss.model.huggingface import write_huggingface
from gpt_oss.model.safetensors_file import SafetensorsFile, write_safetensors
from gpt_oss.model.tensors import Array, Index, TensorSpec, canonical_tensors

DEMO = "demo"  # stands for the demo model wherever a checkpoint is asked for
DEMO_FILE = Path(__file__).parent.parent / "demo" / "demo.safetensors"
TABLES = ("embedding.weight", "unembedding.weight")


class CompactWeights:
    """A compact file as `Weights` (model/tensors.py). quantized: experts as MXFP4, else as they are stored.

    Raises CheckpointError for a file that is not one, ConfigError for a config that is none.
    """

    def __init__(self, path: str | Path, *, quantized: bool = True) -> None:
        self.path = Path(path)
        self.quantized = quantized
        self._file = SafetensorsFile(self.path)
        missing = {"config", "vocabulary", *canonical_names()} - set(self._file.tensors)
        if missing:
            raise CheckpointError(f"{path} is no compact checkpoint: it has no tensor {sorted(missing)[0]!r}")
        self.config: ModelConfig = load_config(json.loads(self._file.array("config").tobytes()))
        self._specs = canonical_tensors(self.config, quantized)

    @cached_property
    def vocabulary(self) -> Array:
        """int32 [rows]: the token ids that have rows of their own, ascending."""
        return self._file.array("vocabulary")

    @cached_property
    def _row_of(self) -> Array:
        rows = np.full(self.config.vocab_size, len(self.vocabulary))
        rows[self.vocabulary] = np.arange(len(self.vocabulary))
        return rows

    def tensor(self, name: str, index: Index = ()) -> Array:
        """See Weights. Raises KeyError for a name that the network does not have."""
        spec = self._specs[name]
        base, _, kind = name.rpartition(".")
        if kind in ("blocks", "scales"):
            blocks, scales = mxfp4.encode(self._file.array(base)[index[:2]])  # rows are encoded apart from one another
            encoded: Array = blocks if kind == "blocks" else scales
            return encoded[(slice(None), slice(None), *index[2:])]
        if name in TABLES:
            rows = self._row_of[index[0]] if index else self._row_of
            return self._file.array(name)[rows][(slice(None), *index[1:])]
        return self._file.array(name)[index].astype(spec.dtype)


def canonical_names() -> Sequence[str]:
    """Of the tensors that every network has."""
    return (*TABLES, "norm.scale")


def write_compact(
    path: str | Path, config: ModelConfig, vocabulary: Sequence[int], tensors: Mapping[str, Array]
) -> Path:
    """Write a compact file. tensors: canonical names with plain experts; the tables have len(vocabulary) + 1 rows."""
    path = Path(path)
    text = np.frombuffer(json.dumps(original_json(config)).encode(), np.uint8)
    stored: dict[str, Array] = {"config": text, "vocabulary": np.asarray(vocabulary, np.int32)}
    for name, spec in canonical_tensors(config, quantized=False).items():
        shape = (len(vocabulary) + 1, config.hidden_size) if name in TABLES else spec.shape
        stored[name] = np.asarray(tensors[name]).astype(spec.dtype).reshape(shape)
    partial = path.with_name(f".{path.name}.partial")
    entries = [(name, TensorSpec(array.shape, array.dtype), [array]) for name, array in stored.items()]
    for _ in write_safetensors(partial, entries):
        pass
    partial.replace(path)
    return path


def demo_folder(*, quantized: bool = True) -> Path:
    """The demo model as a Hugging Face folder in the user's cache, written when it is first asked for.

    Raises CheckpointError where the package lacks it or the cache cannot be written.
    """
    if not DEMO_FILE.is_file():
        raise CheckpointError(f"the demo model is not part of this installation ({DEMO_FILE.name} is missing)")
    content = hashlib.blake2b(DEMO_FILE.read_bytes(), digest_size=6).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss"
    folder = cache / (f"demo-{content}" if quantized else f"demo-bf16-{content}")
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: another process may be writing it as well.
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            written = Path(temporary) / "demo"
            written.mkdir()
            for _ in write_huggingface(written, CompactWeights(DEMO_FILE, quantized=quantized)):
                pass
            try:
                written.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise CheckpointError(f"the demo model cannot be unpacked to {folder}: {error.strerror}") from error
    return folder
