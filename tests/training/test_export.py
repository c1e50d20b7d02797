"""What was trained is what a backend opens: the same logits from the file as from the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_oss.errors import CheckpointError
from gpt_oss.model import reference
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.layout import LayoutName
from gpt_oss.model.tensors import canonical_tensors
from gpt_oss.training.export import NetworkWeights, export
from gpt_oss.training.network import Network
from tests.conftest import TINY
from tests.training.test_network import WEIGHTS, loaded, random_pack

LAYOUTS: list[LayoutName] = ["original", "huggingface", "metal"]


def trained(**options: object) -> Network:
    """Parameters that bf16 holds exactly, but experts' weights, so that exporting loses nothing but what MXFP4 does."""
    network = Network(TINY, **options)  # type: ignore[arg-type]
    network.initialise(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return network


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_with_rounded_experts_makes_the_file_compute_what_the_network_did(
    layout: LayoutName, tmp_path: Path
) -> None:
    network, pack = trained(quantize_experts=True), random_pack(150)
    with open_checkpoint(export(network, tmp_path / "trained", layout)) as checkpoint, torch.no_grad():
        assert checkpoint.quantized
        assert checkpoint.layout == layout
        in_file = reference.forward(checkpoint, pack.tokens.numpy())
        np.testing.assert_allclose(network(pack).numpy()[:, : in_file.shape[1]], in_file, atol=2e-5, rtol=1e-5)


def test_experts_can_stay_in_bf16(tmp_path: Path) -> None:
    network, pack = trained(), random_pack(40)
    with open_checkpoint(export(network, tmp_path / "trained", "huggingface", quantized=False)) as checkpoint:
        assert not checkpoint.quantized
        in_file = reference.forward(checkpoint, pack.tokens.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(network(pack).numpy(), in_file, atol=2e-5, rtol=1e-5)


def test_a_network_that_learnt_nothing_is_exported_as_it_was_loaded() -> None:
    exported = NetworkWeights(loaded())
    for name in canonical_tensors(TINY):
        before, after = WEIGHTS.tensor(name), exported.tensor(name)
        assert after.dtype == before.dtype, name
        if not name.endswith(("blocks", "scales")):  # two encodings may name one value: what they compute counts
            np.testing.assert_array_equal(after.view(np.uint8), before.view(np.uint8), err_msg=name)
    np.testing.assert_array_equal(
        reference.forward(exported, range(20)), reference.forward(WEIGHTS, range(20)), err_msg="experts"
    )


def test_every_part_of_a_tensor_is_that_part_of_the_whole() -> None:
    weights = NetworkWeights(loaded())
    index = (slice(1, 3), slice(5, 40), slice(0, 1))
    for name in ("block.1.mlp.mlp1_weight.blocks", "block.1.mlp.mlp1_weight.scales"):
        for depth in range(4):
            np.testing.assert_array_equal(weights.tensor(name, index[:depth]), weights.tensor(name)[index[:depth]])


def test_tokens_outside_the_vocabulary_share_a_row() -> None:
    network = trained(vocabulary=range(0, 512, 4))
    table = NetworkWeights(network).tensor("embedding.weight").astype(np.float32)
    rows = network.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(table[::4], rows[:-1])
    np.testing.assert_array_equal(table[1::4], np.broadcast_to(rows[-1], (128, TINY.hidden_size)))


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = export(trained(), tmp_path / "trained", "original")
    with pytest.raises(CheckpointError, match="exists"):
        export(trained(), path, "original")
    export(trained(), path, "original", overwrite=True)
