"""A token drawn from bounds and a few exact rows is that of all exact rows; bounds hold; the noise is noise.py's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from gpt_oss.backends.base import Chunk, SamplesItself
from gpt_oss.backends.cpu import _native, open_model
from gpt_oss.engine.noise import gumbel
from gpt_oss.errors import BackendError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

F32 = NDArray[np.float32]
ISAS = _native.instruction_sets()
SEED = 0xFEDC_BA98_7654_3210
TEMPERATURES = (0.0, 0.7, 1.0, 1.5)


class Unembedding:
    """A weight matrix, screened by its int8 form unless told otherwise; and the oracle: every row, and numpy."""

    def __init__(
        self, weight: F32, isa: str, *, usable: int | None = None, threads: int = 1, screened: bool = True
    ) -> None:
        bits = weight.astype(ml_dtypes.bfloat16).view(np.uint16)
        sizes = _native.int8_sizes(*weight.shape) if screened else (0, 0)
        values, scales = np.empty(sizes[0], np.uint8), np.empty(sizes[1], np.uint16)
        self.norms = np.empty((len(weight) if screened else 0, 2), np.float32)
        if screened:
            _native.quantise_int8(bits, 0, len(bits), values, scales)
            _native.row_norms(bits, 0, len(bits), self.norms)
        self.bits, self.usable = bits, len(weight) if usable is None else usable
        self.native = _native.Unembedding(isa, threads, bits, values, scales, self.norms, self.usable)

    def logits(self, x: F32) -> F32:
        out = np.empty(self.usable, np.float32)
        self.native.exact_rows(x, np.arange(self.usable, dtype=np.int32), out)
        return out

    def sample(self, x: F32, temperature: float, position: int, seed: int = SEED) -> int:
        return self.native.sample(x, temperature, seed, position)  # type: ignore[no-any-return]

    def bounds(self, x: F32) -> tuple[F32, NDArray[np.float64]]:
        approximate, errors = np.empty(self.usable, np.float32), np.empty(self.usable)
        self.native.bounds(x, approximate, errors)
        return approximate, errors


def oracle(logits: F32, temperature: float, position: int, seed: int = SEED) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    noise = gumbel(seed, position, np.arange(len(logits)))
    return int(np.argmax(logits.astype(np.float64) / temperature + noise))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_noise_is_that_of_noise_py() -> None:
    tokens = np.arange(201_088, dtype=np.int32)
    ours, bound = np.empty(len(tokens)), np.empty(len(tokens))
    for seed, position in [(0, 0), (SEED, 7), (2**64 - 1, 131_071)]:
        _native.gumbel(seed, position, tokens, False, ours)
        _native.gumbel(seed, position, tokens, True, bound)
        np.testing.assert_allclose(ours, gumbel(seed, position, tokens.astype(np.int64)), rtol=1e-12, atol=1e-12)
        assert np.all(bound > ours)
        assert np.max((bound - ours)[ours > 3]) < 0.09


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cols", [64, 96, 160])
@pytest.mark.parametrize("spread", [0.02, 0.5, 3.0], ids=["flat", "usual", "peaky"])
def test_ten_thousand_draws(rng: np.random.Generator, isa: str, cols: int, spread: float) -> None:
    """spread: the standard deviation of the logits. 10,080 draws over all cases of one instruction set."""
    unembedding = Unembedding(rng.normal(size=(3001, cols)).astype(np.float32), isa)
    seen = set()
    for state in range(28):
        x = (rng.normal(size=cols) * spread / np.sqrt(cols)).astype(np.float32)
        logits = unembedding.logits(x)
        for position in range(10):
            for temperature in TEMPERATURES:
                token = unembedding.sample(x, temperature, state * 10 + position)
                assert token == oracle(logits, temperature, state * 10 + position)
                seen.add(token)
    assert len(seen) > 50


@pytest.mark.parametrize("isa", ISAS)
def test_exact_rows_are_the_logits_of_exact_precision(rng: np.random.Generator, isa: str) -> None:
    unembedding = Unembedding(rng.normal(size=(301, 160)).astype(np.float32), isa)
    x = rng.normal(size=160).astype(np.float32)
    y = np.empty((1, 301), np.float32)
    empty = np.empty(0, np.uint8), np.empty(0, np.uint16), np.empty(0, np.float32)
    _native.linear(isa, "exact", 1, unembedding.bits, *empty, x[None], y, False)
    np.testing.assert_array_equal(unembedding.logits(x), y[0])


def adversarial(rng: np.random.Generator, kind: str, cols: int) -> tuple[F32, F32]:
    weight, x = rng.normal(size=(500, cols)), rng.normal(size=cols)
    match kind:
        case "rows far apart":
            weight *= 10.0 ** rng.uniform(-12, 12, (500, 1))
        case "values far apart":
            weight *= 10.0 ** rng.uniform(-8, 8, weight.shape)
            x *= 10.0 ** rng.uniform(-8, 8, cols)
        case "sums that cancel":
            weight[:, 1::2] = -weight[:, ::2]
            x[1::2] = x[::2]
        case "every error of one sign":
            weight = np.full((500, cols), 0.5 / 127) * rng.choice([0.99, 1.01], (500, 1))
            weight[:, ::32] = 1
            x = np.abs(x)
        case "a large activation":
            x[0] = 1e6
        case "tiny":
            weight *= 1e-20
            x *= 1e-28
    return weight.astype(np.float32), x.astype(np.float32)


KINDS = [
    "rows far apart",
    "values far apart",
    "sums that cancel",
    "every error of one sign",
    "a large activation",
    "tiny",
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cols", [64, 160, 2880])
@pytest.mark.parametrize("kind", KINDS)
def test_no_logit_leaves_its_bounds(rng: np.random.Generator, isa: str, cols: int, kind: str) -> None:
    weight, x = adversarial(rng, kind, cols)
    unembedding = Unembedding(weight, isa)
    approximate, errors = unembedding.bounds(x)
    off = np.abs(unembedding.logits(x).astype(np.float64) - approximate)
    assert np.all(off <= errors)
    # And they are of use: less than a logit's typical size, |w| |x| / sqrt(cols).
    if kind == "rows far apart":
        size = np.linalg.norm(weight.astype(np.float64), axis=1) * np.linalg.norm(x) / np.sqrt(cols)
        assert np.all(errors <= size * 0.7)
    for temperature in TEMPERATURES:
        assert unembedding.sample(x, temperature, 5) == oracle(unembedding.logits(x), temperature, 5)


def test_row_norms_are_rounded_up(rng: np.random.Generator) -> None:
    unembedding = Unembedding((rng.normal(size=(40, 160)) * 0.1).astype(np.float32), "plain")
    wide = unembedding.bits.view(ml_dtypes.bfloat16).astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    assert np.all(unembedding.norms[:, 1] >= norms)
    np.testing.assert_allclose(unembedding.norms[:, 1], norms, rtol=3e-7)
    steps = np.abs(wide).reshape(40, 5, 32).max(-1) / 127 * 1.01
    assert np.all(unembedding.norms[:, 0] <= np.sqrt((32 * steps**2 / 4).sum(-1)))
    assert np.all(unembedding.norms[:, 0] > 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("screened", [True, False])
def test_the_lowest_id_wins_ties(rng: np.random.Generator, isa: str, screened: bool) -> None:
    weight = rng.normal(size=(1500, 64)).astype(np.float32)
    x = rng.normal(size=64).astype(np.float32)
    weight[[1400, 700, 33]] = np.sign(x) * 5
    for threads in (1, 2):
        unembedding = Unembedding(weight, isa, threads=threads, screened=screened)
        assert unembedding.sample(x, 0, 0) == 33
        assert unembedding.sample(np.zeros(64, np.float32), 0, 0) == 0


@pytest.mark.parametrize("screened", [True, False])
def test_nothing_beyond_the_usable_ids_is_drawn(rng: np.random.Generator, screened: bool) -> None:
    weight = rng.normal(size=(400, 64)).astype(np.float32)
    x = rng.normal(size=64).astype(np.float32)
    weight[300:] = x * 10
    unembedding = Unembedding(weight, ISAS[0], usable=300, screened=screened)
    for temperature in TEMPERATURES:
        tokens = [unembedding.sample(x, temperature, position) for position in range(50)]
        assert max(tokens) < 300
        assert tokens == [oracle(unembedding.logits(x), temperature, position) for position in range(50)]


@pytest.mark.parametrize("isa", ISAS)
def test_threads_and_screen_change_nothing(rng: np.random.Generator, isa: str) -> None:
    weight = rng.normal(size=(3001, 96)).astype(np.float32)
    ways = [Unembedding(weight, isa, threads=n, screened=screened) for n in (1, 2, 3) for screened in (True, False)]
    for position in range(100):
        x = (rng.normal(size=96) / 5).astype(np.float32)
        assert len({way.sample(x, 1, position) for way in ways}) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_broken_hidden_states_still_give_a_token(rng: np.random.Generator, bad: float) -> None:
    unembedding = Unembedding(rng.normal(size=(300, 64)).astype(np.float32), ISAS[0])
    x = rng.normal(size=64).astype(np.float32)
    x[7] = bad
    for temperature in TEMPERATURES:
        assert 0 <= unembedding.sample(x, temperature, 3) < 300


def test_draws_follow_the_softmax(rng: np.random.Generator) -> None:
    unembedding = Unembedding(rng.normal(size=(8, 64)).astype(np.float32), ISAS[0])
    x = (rng.normal(size=64) / 8).astype(np.float32)
    share = np.exp(unembedding.logits(x).astype(np.float64) / 0.7)
    share /= share.sum()
    counts = np.bincount([unembedding.sample(x, 0.7, position) for position in range(5000)], minlength=8)
    chi_squared = np.sum((counts - 5000 * share) ** 2 / (5000 * share))
    assert chi_squared < 24.3  # 7 degrees of freedom: a right sampler fails for one seed in a thousand


@pytest.mark.parametrize("precision", ["exact", "balanced"])
def test_a_model_samples(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, precision: Literal["balanced", "exact"]
) -> None:
    with open_checkpoint(tiny_checkpoints["original"]) as checkpoint:
        model = open_model(checkpoint, precision=precision, threads=2, cache_tokens=512, cache_dir=tmp_path)
        tokens, blocks = np.arange(16, dtype=np.int32), np.arange(1, dtype=np.int32)
        logits = model.forward([Chunk(tokens, 0, blocks, blocks, 16)])
        assert isinstance(logits, SamplesItself)
        values = logits.numpy()[:, : model.config.usable_vocab_size]
        for row in range(16):
            for temperature in TEMPERATURES:
                token = logits.sample(row, temperature, -3, row)
                if precision == "exact":
                    assert token == oracle(values[row], temperature, row, -3)
                else:  # `numpy` is the int8 form's: the token is all but the best of it
                    noise = gumbel(-3, row, np.arange(values.shape[1])) if temperature else 0.0
                    total = values[row].astype(np.float64) / (temperature or 1) + noise
                    assert total[token] >= total.max() - 0.1 * np.abs(values[row]).max() / (temperature or 1)
        with pytest.raises(ValueError, match="row 16"):
            logits.sample(16, 1, 0, 0)
        model.forward([Chunk(tokens, 0, blocks, blocks)])
        with pytest.raises(BackendError):
            logits.sample(0, 1, 0, 0)
        model.close()


@pytest.mark.parametrize("precision", ["balanced", "exact"])
def test_several_rows_draw_what_each_draws_alone(tmp_path: Path, precision: Literal["balanced", "exact"]) -> None:
    """Rows of one step are screened in one pass over the weights; ten of them, more than one pass takes."""
    config = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=3000, hidden_size=64, intermediate_size=64,
        head_dim=16, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with open_checkpoint(write_random_checkpoint(tmp_path / "model", config)) as checkpoint:
        model = open_model(checkpoint, precision=precision, threads=2, cache_tokens=64, cache_dir=tmp_path)
    tokens, blocks = np.arange(7, 17, dtype=np.int32), np.zeros(1, np.int32)
    for temperature in (0.0, 1.0):
        alone = []
        for end in range(1, 11):
            logits = model.forward([Chunk(tokens[:end], 0, blocks, blocks, 1)])
            alone.append(logits.sample(0, temperature, 5, end))
        together = model.forward([Chunk(tokens, 0, blocks, blocks, 10)])
        assert [together.sample(row, temperature, 5, row + 1) for row in range(10)] == alone
    model.close()
