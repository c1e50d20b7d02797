"""What base.Model promises of batches, block tables and the cache, asked of every backend and judged by its prefill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from gpt_oss.backends.base import FREED, Chunk, Float32, Int32, Model
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.errors import ContextOverflowError, ParameterError
from gpt_oss.model.checkpoint import open_checkpoint
from tests.parity.backends import BACKENDS, Backend
from tests.parity.checks import CONFIG, Parity

TOKENS = 400


@dataclass
class Bench:
    backend: Backend
    model: Model
    tokens: Int32
    expected: Float32  # [TOKENS, vocab]

    def assert_rows(self, logits: Float32, rows: slice) -> None:
        assert self.backend.distance(logits, self.expected[rows]) <= self.backend.near

    def blocks(self, tokens: int, first: int = 0, step: int = 1) -> Int32:
        """Physical blocks for so many tokens, counted from `first`."""
        count = -(-tokens // self.model.block_tokens)
        return (first + step * np.arange(count)).astype(np.int32)


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend.name)
def bench(request: pytest.FixtureRequest, parity: Parity) -> Iterator[Bench]:
    with open_checkpoint(parity.checkpoint("original")) as checkpoint:
        model = request.param.open(checkpoint, cache_tokens=8 * TOKENS)
        tokens = parity.tokens[:TOKENS].astype(np.int32)
        yield Bench(request.param, model, tokens, SingleSequence(model).forward(tokens, logits=None))
        model.close()


def test_it_says_what_it_is(bench: Bench) -> None:
    assert bench.model.config == CONFIG
    assert bench.model.block_tokens * bench.model.cache_blocks >= 8 * TOKENS


def test_blocks_may_lie_anywhere(bench: Bench) -> None:
    blocks = bench.blocks(TOKENS)
    shuffled = np.random.default_rng(0).permutation(blocks)
    logits = bench.model.forward([Chunk(bench.tokens, 0, blocks[::-1].copy(), shuffled, logits=TOKENS)])
    assert len(logits) == TOKENS
    bench.assert_rows(logits.numpy(), slice(0, TOKENS))


def test_sequences_of_a_batch_do_not_touch_each_other(bench: Bench) -> None:
    """One that begins, one in the middle of its prompt, one that decodes, one that verifies four drafted tokens."""
    batch, later, expected = [], [], []
    count = len(bench.blocks(TOKENS))
    for i, (position, new, logits) in enumerate([(0, 200, 1), (150, 200, 0), (399, 1, 1), (296, 4, 4)]):
        blocks = bench.blocks(position + new, first=i * count)
        if position:
            later.append(Chunk(bench.tokens[:position], 0, *[bench.blocks(position, first=i * count)] * 2, logits=0))
        batch.append(Chunk(bench.tokens[position : position + new], position, blocks, blocks, logits))
        expected += range(position + new - logits, position + new)
    assert len(bench.model.forward(later)) == 0
    bench_rows = bench.model.forward(batch).numpy()
    assert bench.backend.distance(bench_rows, bench.expected[expected]) <= bench.backend.near


def test_blocks_before_the_window_may_be_freed(bench: Bench) -> None:
    """A windowed sequence that always gives back what its next chunk cannot see, and reuses it."""
    block_tokens, window, step = bench.model.block_tokens, CONFIG.sliding_window, 50
    held = (window + step) // block_tokens + 2
    window_blocks = bench.blocks(TOKENS) % held
    for position in range(0, TOKENS, step):
        end = position + step
        table = window_blocks[: len(bench.blocks(end))].copy()
        table[: max(0, position - window + 1) // block_tokens] = FREED
        chunk = Chunk(bench.tokens[position:end], position, bench.blocks(end), table, logits=step)
        bench.assert_rows(bench.model.forward([chunk]).numpy(), slice(position, end))


def test_a_common_prefix_is_shared(bench: Bench) -> None:
    prefix = 4 * bench.model.block_tokens
    first = bench.blocks(TOKENS)
    bench.model.forward([Chunk(bench.tokens[:prefix], 0, *[bench.blocks(prefix)] * 2, logits=0)])
    other = np.where(np.arange(len(first)) < 4, first, first + len(first)).astype(np.int32)
    end = prefix + 100
    chunks = [
        Chunk(bench.tokens[prefix:end], prefix, *[blocks[: len(bench.blocks(end))]] * 2, logits=100)
        for blocks in (first, other)
    ]
    one, two = np.split(bench.model.forward(chunks).numpy(), 2)
    bench.assert_rows(one, slice(prefix, end))
    bench.assert_rows(two, slice(prefix, end))


@pytest.mark.parametrize("position", [0, 1, 31, 127, 128, 129, 250, 399])
def test_a_sequence_can_be_rewound_to_any_position(bench: Bench, position: int) -> None:
    sequence = SingleSequence(bench.model)
    sequence.forward(bench.tokens, logits=0)
    sequence.rewind(min(position + 20, TOKENS))  # and on another way from there, which must leave no trace
    sequence.forward(bench.tokens[:77], logits=0)
    sequence.rewind(position)
    bench.assert_rows(sequence.forward(bench.tokens[position:], logits=None), slice(position, TOKENS))


def test_cached_blocks_can_be_taken_out_and_put_elsewhere(bench: Bench) -> None:
    block_tokens = bench.model.block_tokens
    position = TOKENS // block_tokens * block_tokens - block_tokens
    blocks, elsewhere = bench.blocks(position), bench.blocks(position, first=3, step=2)
    bench.model.forward([Chunk(bench.tokens[:position], 0, blocks, blocks, logits=0)])
    data = bench.model.read_cache(blocks, blocks)
    bench.model.forward([Chunk(bench.tokens[::-1][:position].copy(), 0, blocks, blocks, logits=0)])
    bench.model.write_cache(elsewhere, elsewhere[::-1].copy(), data)
    new = bench.blocks(TOKENS - position)  # of the ones that were overwritten
    table = np.concatenate([elsewhere, 2 * new])
    window_table = np.concatenate([elsewhere[::-1], 2 * new])
    logits = bench.model.forward([Chunk(bench.tokens[position:], position, table, window_table, logits=1)])
    bench.assert_rows(logits.numpy(), slice(TOKENS - 1, TOKENS))


def test_a_token_outside_the_vocabulary_is_refused(bench: Bench) -> None:
    for token in (-1, CONFIG.vocab_size):
        chunk = Chunk(np.array([3, token], np.int32), 0, *[bench.blocks(2)] * 2)
        with pytest.raises((ParameterError, ValueError), match=f"{token}"):
            bench.model.forward([chunk])


def test_a_sequence_longer_than_the_cache_is_refused(bench: Bench) -> None:
    sequence = SingleSequence(bench.model)
    room = bench.model.block_tokens * min(bench.model.cache_blocks, bench.model.window_cache_blocks)
    with pytest.raises(ContextOverflowError, match=f"{room + 1} tokens"):
        sequence.forward(np.zeros(room + 1, np.int32))
    assert sequence.position == 0
