"""Opening a checkpoint as a user asks: what keys and values are kept as, and the prefixes kept between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from gpt_oss.backends.base import SampledToken
from gpt_oss.errors import ParameterError
from gpt_oss.load import LoadOptions, load
from gpt_oss.params import SamplingParams

PROMPT = [7 * i % 500 for i in range(200)]


def answer(checkpoint: Path, kv: Literal["bf16", "int8"]) -> list[SampledToken]:
    options = LoadOptions(backend="cpu", kv=kv, context_tokens=512, threads=1, keep_prefixes=True)
    generator = load(checkpoint, options)
    try:
        return list(generator.generate_sync(PROMPT, SamplingParams(seed=1, max_tokens=20)))
    finally:
        generator.close()


def test_kept_prefixes_belong_to_what_keys_and_values_are_kept_as(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checkpoint = tiny_checkpoints["original"]
    bf16, int8, again = answer(checkpoint, "bf16"), answer(checkpoint, "int8"), answer(checkpoint, "int8")
    assert len(bf16) == len(int8) == 20
    assert [answer[0].cached_tokens for answer in (bf16, int8, again)] == [0, 0, 192]


def test_int8_keys_and_values_need_the_cpu_backend(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ParameterError, match="int8 keys and values need the cpu backend"):
        load(tiny_checkpoints["original"], LoadOptions(backend="torch", kv="int8"))
