"""What parity means: each check measures one distance between logits that should agree, and says how large it may be.

The tests assert the checks, `python -m tests.parity.table` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt_oss.backends.base import Float32
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.model import reference
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from tests.parity import processes
from tests.parity.backends import Backend
from tests.parity.defects import PARALLEL_DEFECTS

# Small, and such that every fact of the network shows in the logits: a clamp that often bites, an eps that counts,
# key heads as many as heads in a group (swapped axes give no shape error), real window and initial context.
CONFIG = ModelConfig(
    num_hidden_layers=4,
    num_experts=8,
    experts_per_token=2,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=64,
    swiglu_limit=2.0,
    head_dim=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-3,
)
LAYOUTS = ("original", "huggingface", "metal")
LONG = 4200
LENGTHS = (1, 127, 128, 129, 300, 4095, 4097, LONG)
FAR = 1000


class Parity:
    """The random checkpoint in each layout, and what the oracle and transformers say of it; made when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tokens = np.random.default_rng(7).integers(0, CONFIG.vocab_size, LONG)
        self.checkpoint = cache(self._checkpoint)
        self.in_processes = cache(self._in_processes)

    def _checkpoint(self, layout: str) -> Path:
        return write_random_checkpoint(self._folder / layout, CONFIG, seed=1, layout=layout)

    @cached_property
    def oracle(self) -> reference.Float64:
        """[LONG, vocab]. A row depends on no later token, so its beginning serves shorter prompts."""
        with open_checkpoint(self.checkpoint("original")) as checkpoint:
            return reference.forward(checkpoint, self.tokens)

    @cached_property
    def transformers(self) -> Float32:
        """[LONG, vocab], in float32."""
        import torch
        from transformers import GptOssForCausalLM, Mxfp4Config
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model = GptOssForCausalLM.from_pretrained(
            self.checkpoint("huggingface"),
            dtype=torch.float32,
            attn_implementation="eager",
            quantization_config=Mxfp4Config(dequantize=True),
        )
        with torch.inference_mode():
            return model(torch.from_numpy(self.tokens)[None]).logits[0].numpy()

    def _in_processes(self, dtype: str) -> dict[str, Float32]:
        """What two processes answer to 300 tokens: see processes.run."""
        defects = len(PARALLEL_DEFECTS) if dtype == "float32" else 0
        return processes.run(self.checkpoint("original"), self.tokens[:300], self._folder, dtype=dtype, defects=defects)

    @contextmanager
    def sequence(self, backend: Backend, layout: str = "original", **options: Any) -> Iterator[SingleSequence]:
        with open_checkpoint(self.checkpoint(layout)) as checkpoint:
            model = backend.open(checkpoint, cache_tokens=LONG)
            try:
                yield SingleSequence(model, **options)
            finally:
                model.close()

    def prefill(self, backend: Backend, length: int, layout: str = "original") -> Float32:
        with self.sequence(backend, layout) as sequence:
            return sequence.forward(self.tokens[:length], logits=None)


@dataclass(frozen=True)
class Check:
    """limit: None where the check does not apply to a backend."""

    name: str
    measure: Callable[[Parity, Backend], float]
    limit: Callable[[Backend], float | None]


def _against_reference(length: int) -> Check:
    return Check(
        f"the reference, {length} tokens",
        lambda parity, backend: backend.distance(parity.prefill(backend, length), parity.oracle[:length]),
        lambda backend: backend.far if length > FAR else backend.near,
    )


def _against_transformers(length: int) -> Check:
    return Check(
        f"transformers in float32, {length} tokens",
        lambda parity, backend: backend.distance(parity.prefill(backend, length), parity.transformers[:length]),
        lambda backend: backend.transformers,
    )


def _token_by_token(parity: Parity, backend: Backend, before: int, count: int) -> float:
    """Read `before` tokens as a prompt and `count` more one at a time, against reading all as a prompt."""
    with parity.sequence(backend) as sequence:
        sequence.forward(parity.tokens[:before], logits=0)
        one_by_one = [sequence.forward(parity.tokens[i : i + 1]) for i in range(before, before + count)]
        sequence.rewind(0)
        at_once = sequence.forward(parity.tokens[: before + count], logits=count)
    return backend.distance(np.concatenate(one_by_one), at_once)


def _in_chunks(parity: Parity, backend: Backend) -> float:
    with parity.sequence(backend, chunk_tokens=37) as sequence:
        return backend.distance(sequence.forward(parity.tokens[:300], logits=None), parity.prefill(backend, 300))


def _layout(layout: str) -> Check:
    return Check(
        f"layout {layout} against original",
        lambda parity, backend: backend.distance(parity.prefill(backend, 300, layout), parity.prefill(backend, 300)),
        lambda backend: 0.0,
    )


def _two_processes(parity: Parity, backend: Backend) -> float:
    assert backend.torchrun is not None
    shared = parity.in_processes(backend.torchrun)["logits"]
    return backend.distance(shared, parity.prefill(backend, len(shared)))


def _near(backend: Backend) -> float:
    return backend.near


CHECKS: Sequence[Check] = (
    *(_against_reference(length) for length in LENGTHS),
    *(_against_transformers(length) for length in (300, LONG)),
    Check("300 tokens one by one against at once", lambda p, b: _token_by_token(p, b, 0, 300), _near),
    Check("4090 and 20 one by one against at once", lambda p, b: _token_by_token(p, b, 4090, 20), _near),
    Check("chunks of 37 against 512", _in_chunks, _near),
    *(_layout(layout) for layout in LAYOUTS[1:]),
    Check("two processes against one", _two_processes, lambda backend: backend.near if backend.torchrun else None),
)
