"""The demo network before training: random, but for a few heads that already look back.

Most of what it shall do is copying, and attention that copies (heads that know the token before, and heads that look
for where the current token stood before: "induction") takes longer to emerge than all else takes to learn. So the first
two layers begin with two heads of each kind, written down. Training keeps, sharpens or changes them.
What is copied is seldom the very token: ` Oslo` in a question is `Oslo` behind a quote, `.get` in a call is ` get` in
a declaration. So tokens of the same letters begin with similar rows in both tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from zlib import crc32

import torch
from torch import Tensor

from gpt_oss.backends.torch.network import inverse_frequencies
from gpt_oss.model.config import ModelConfig
from gpt_oss.training.network import Block, Network
from gpt_oss.vocabulary import decode

EMBEDDING, UNEMBEDDING = 0.5, 0.15  # deviations of the tables
LETTERS, FORM, OWN = 0.75, 0.35, 0.56  # of a row: what it shares with the same letters, with the same form, and its own
SHARPNESS = 8.0  # of looking at a fixed distance
FAST, SLOW = 8, 16  # rotary pairs below FAST tell neighbours apart; those from SLOW on do not notice the distance
WRITTEN = 0.6  # how loud the token before is beside the token itself
MATCH = 1.8  # how sharply equal tokens find each other
COPY = 1.5


@torch.no_grad()
def wire(network: Network, seed: int) -> None:
    """Overwrite heads 0 and 1 of layer 0 and one head in each of two groups of layer 1, and both tables."""
    config = network.config
    generator = torch.Generator().manual_seed(seed)
    hidden, half = config.hidden_size, config.head_dim // 2
    group = config.num_attention_heads // config.num_key_value_heads

    def orthonormal(rows: int, columns: int) -> Tensor:
        """[rows, columns], rows <= columns."""
        basis: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
        return basis.T

    table = _table(network, generator)
    turn = orthonormal(hidden, hidden)  # what is to be said lies elsewhere than what was read
    network.embedding.weight.copy_(EMBEDDING * table)
    network.unembedding.weight.copy_(UNEMBEDDING * table @ turn.T)

    # Layer 0: heads 0 and 1 look one and two tokens back, and write down what stands there.
    first, second = (cast(Block, network.block[layer]).attn for layer in (0, 1))
    read = orthonormal(config.head_dim, hidden)
    places = [orthonormal(config.head_dim, hidden).T for _ in range(2)]
    keys = torch.zeros(config.head_dim)
    keys[:FAST] = keys[half : half + FAST] = 1
    _set(config, first.qkv, "key", 0, torch.zeros_like(read), keys)
    _set(config, first.qkv, "value", 0, read)
    for head, place in enumerate(places):
        _set(config, first.qkv, "query", head, torch.zeros_like(read), SHARPNESS * _turned(config, keys, -(head + 1)))
        _write(config, first.out, head, WRITTEN * place)

    # Layer 1: the first head of each group looks for where the current token (and the one before it) stood earlier,
    # and says what came next.
    slow = [*range(SLOW, half), *range(half + SLOW, 2 * half)]
    sought = (read, places[0].T)
    for which, (place, query) in enumerate(zip(places, sought, strict=True)):
        compare = torch.zeros(config.head_dim, config.head_dim)
        compare[slow] = MATCH * orthonormal(len(slow), config.head_dim)
        value = orthonormal(config.head_dim, hidden)
        _set(config, second.qkv, "key", which, compare @ place.T)
        _set(config, second.qkv, "query", which * group, compare @ query)
        _set(config, second.qkv, "value", which, value)
        _write(config, second.out, which * group, COPY * turn @ value.T)


def _table(network: Network, generator: torch.Generator) -> Tensor:
    """[rows, hidden] of deviation 1: alike for tokens of the same letters, which differ in case or in what stands in
    front; and a little for tokens of the same form."""
    shape = network.embedding.weight.shape
    own = torch.randn(shape, generator=generator)
    if network.vocabulary is None:
        return own
    spelled = [decode([token]) for token in network.vocabulary]
    letters = [text.lstrip(_FRONTS).lower() or text for text in spelled]
    rows = LETTERS * _drawn(letters, shape[1]) + FORM * _drawn([_form(text) for text in spelled], shape[1])
    return torch.cat([rows + OWN * own[:-1], own[-1:]])


_FRONTS = " \"'._({[/:=-<>"


def _form(text: str) -> str:
    """What stands in front of the letters, and their case."""
    word = text.lstrip(_FRONTS)
    kind = "number" if word.isdigit() else "lower" if word.islower() else "title" if word.istitle() else "other"
    return f"{text[: len(text) - len(word)][-1:]} {kind if word else 'sign'}"


def _drawn(names: Sequence[str], columns: int) -> Tensor:
    """[names, columns]: normal numbers, the same for the same name."""
    drawn = {
        name: torch.randn(columns, generator=torch.Generator().manual_seed(crc32(name.encode()))) for name in set(names)
    }
    return torch.stack([drawn[name] for name in names])


def _turned(config: ModelConfig, vector: Tensor, positions: int) -> Tensor:
    """A head's vector as rotary embedding turns it at a position."""
    angles = positions * inverse_frequencies(config, torch.float32)
    x1, x2 = vector.chunk(2)
    return torch.cat([x1 * angles.cos() - x2 * angles.sin(), x2 * angles.cos() + x1 * angles.sin()])


def _set(
    config: ModelConfig, qkv: torch.nn.Linear, part: str, head: int, weight: Tensor, bias: Tensor | None = None
) -> None:
    start = {"query": 0, "key": config.num_attention_heads, "value": 0}[part]
    if part == "value":
        start = config.num_attention_heads + config.num_key_value_heads
    rows = slice((start + head) * config.head_dim, (start + head + 1) * config.head_dim)
    qkv.weight[rows] = weight
    if bias is not None:
        qkv.bias[rows] = bias


def _write(config: ModelConfig, out: torch.nn.Linear, head: int, weight: Tensor) -> None:
    """weight: [hidden, head_dim]."""
    out.weight[:, head * config.head_dim : (head + 1) * config.head_dim] = weight
