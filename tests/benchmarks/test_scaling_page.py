"""docs/scaling.md says what the functions behind it compute; and those count bytes as files and formulas do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.capacity import (
    HARDWARE,
    MODELS,
    Measured,
    Roofline,
    cache_tokens,
    dense_bytes,
    expert_bytes,
    kv_bytes,
    read_measured,
    sequences_that_fit,
    timing_of,
    weights_bytes,
)
from benchmarks.scaling_page import ARITHMETIC, PAGE, fitting, replicas_for, section, seen, title
from gpt_oss.backends.cpu.memory import cache_bytes_per_token, expert_bytes_per_token
from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

SMALL, LARGE = MODELS["20b"], MODELS["120b"]
H100 = HARDWARE["h100"]
assert H100 is not None


def test_weights_are_as_large_as_a_checkpoint_of_that_shape(tmp_path: Path) -> None:
    tiny = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=256, hidden_size=64, intermediate_size=96,
        head_dim=16, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    path = write_random_checkpoint(tmp_path / "tiny", tiny)
    written = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert 0 <= written - weights_bytes(tiny) < 10_000, "but for the file's header"


def test_the_released_models_have_the_sizes_that_are_known_of_them() -> None:
    assert weights_bytes(SMALL) / 1e9 == pytest.approx(13.76, abs=0.01)
    assert weights_bytes(LARGE) / 1e9 == pytest.approx(65.25, abs=0.01)
    biases = 24 * 4 * (2 * 2880 + 2880) * 2
    assert 24 * 4 * expert_bytes(SMALL) - biases == expert_bytes_per_token(SMALL)
    assert dense_bytes(SMALL) / 1e9 == pytest.approx(1.27 + 1.16, abs=0.02), "attention and unembedding"


@pytest.mark.parametrize("context", [1, 127, 128, 129, 131_072])
def test_windowed_layers_keep_128_tokens_and_the_others_all(context: int) -> None:
    layers = [min(context, 128) if layer % 2 == 0 else context for layer in range(24)]
    assert kv_bytes(SMALL, context) == sum(2 * 8 * 64 * 2 * kept for kept in layers)


def test_int8_is_what_the_cpu_backend_says_it_is() -> None:
    whole = ModelConfig(sliding_window=1_000_000)  # no layer forgets
    assert kv_bytes(whole, 1000, 1 + 4 / 64) == 1000 * cache_bytes_per_token(SMALL, "int8")
    assert kv_bytes(whole, 1000) == 1000 * cache_bytes_per_token(SMALL, "bf16")


def test_what_fits_beside_the_weights_does_and_one_more_does_not() -> None:
    for context in (8192, 131_072):
        count = sequences_that_fit("120b", "h200", context)
        free = 0.9 * 141e9 - 1.5e9 - weights_bytes(LARGE)
        assert count * kv_bytes(LARGE, context) <= free < (count + 1) * kv_bytes(LARGE, context)
    with pytest.raises(ParameterError, match="does not fit"):
        cache_tokens("120b", "l40s")
    with pytest.raises(ParameterError, match="does not fit"):
        timing_of("120b", "rtx4090")
    assert cache_tokens("120b", "l40s", 2) > 100_000


def test_one_token_reads_what_is_known_to_be_read() -> None:
    assert Roofline(SMALL, H100).step_bytes(1, 1, 0) / 1e9 == pytest.approx(3.7, abs=0.05)
    assert Roofline(LARGE, H100).step_bytes(1, 1, 0) / 1e9 == pytest.approx(5.0, abs=0.05)
    assert Roofline(SMALL, H100).step_flops(1000, 0, 0, 0) / 1000 / 1e9 == pytest.approx(6.06, abs=0.15)
    most = Roofline(LARGE, H100).step_bytes(100_000, 1, 0)
    embedding = 201_088 * 2880 * 2
    assert most == pytest.approx(weights_bytes(LARGE) - embedding, rel=1e-3), "many tokens pick every expert"


def test_more_never_takes_less_time() -> None:
    for gpus in (1, 2):
        timing = Roofline(LARGE, H100, gpus)
        times = [timing.step_s(0, 0, count, 4000 * count) for count in (1, 2, 8, 64, 256)]
        assert times == sorted(times)
        assert timing.step_s(512, 0, 8, 0) <= timing.step_s(4096, 0, 8, 0) <= timing.step_s(4096, 50_000, 8, 0)
    assert Roofline(LARGE, H100, 2).step_s(0, 0, 64, 0) < Roofline(LARGE, H100).step_s(0, 0, 64, 0)


def test_measured_batches_are_met_and_between_them_is_a_line() -> None:
    measured = Measured(200.0, ((1, 8.0), (2, 10.0), (4, 16.0)))
    assert measured.step_s(100, 0, 0, 0) == 0.5
    assert [measured.step_s(0, 0, count, 0) for count in (1, 2, 4)] == [1 / 8, 2 / 10, 4 / 16]
    assert measured.step_s(0, 0, 3, 0) == pytest.approx((0.2 + 0.25) / 2)
    assert measured.step_s(0, 0, 8, 0) == pytest.approx(0.25 + 4 * 0.025), "as steep as before"


def test_the_measured_table_is_found_and_missing_ones_are_said(tmp_path: Path) -> None:
    measured = read_measured()
    assert measured.read > 0
    assert [count for count, _ in measured.decode][:2] == [1, 2]
    (tmp_path / "empty.md").write_text("# Performance\n")
    with pytest.raises(GptOssError, match=r"run `python -m benchmarks.cpu"):
        read_measured(tmp_path / "empty.md")


def test_one_replica_is_to_spare_where_there_are_several() -> None:
    assert [replicas_for(crowd, 100) for crowd in (1, 80, 81, 1000)] == [1, 1, 3, 14]


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_pages_arithmetic_is_up_to_date(name: str) -> None:
    assert section(PAGE, name) == ARITHMETIC[name](), "run `python -m benchmarks.scaling_page`"


@pytest.mark.parametrize("machine", [("20b", "rtx4090", 1), ("120b", "a100", 1)])
def test_the_pages_users_are_those_that_the_simulation_finds(machine: tuple[str, str, int]) -> None:
    row = next(
        line for line in section(PAGE, "users").splitlines() if line.startswith(f"| {machine[0]} | {title(*machine)}")
    )
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    users, result = fitting(*machine, "chat")
    assert cells[2:4] == [f"**{users:,}**", seen(result)], "run `python -m benchmarks.scaling_page`"


def test_the_plan_is_what_the_users_table_gives() -> None:
    bold = {}
    for row in section(PAGE, "users").splitlines()[2:]:
        cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
        bold[f"{cells[0]}, {cells[1]}"] = (int(cells[2].replace(",", "")), int(cells[4].replace(",", "")))
    head, _, *rows = section(PAGE, "plan").splitlines()
    columns = [cell.strip() for cell in head.strip("|").split("|")][1:]
    for row in rows:
        crowd, *counts = (cell.strip().replace(",", "") for cell in row.strip("|").split("|"))
        for column, count in zip(columns, counts, strict=True):
            wanted = [replicas_for(int(crowd), users) for users in bold[column]]
            assert [int(each) for each in count.split("/")] == wanted


def test_every_argument_of_the_ray_application_is_on_the_page() -> None:
    ray_app = pytest.importorskip("gpt_oss.server.ray_app", reason="needs ray: pip install 'gpt-oss[ray]'")
    documented = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    assert set(vars(ray_app.Fleet())) <= documented
