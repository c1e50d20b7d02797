"""The fake package and the test server against the real vLLM, where it is installed: names, defaults, schemas."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import pytest

pytest.importorskip("vllm.sampling_params", reason="vllm is not installed: its wheels are for GPUs")

from gpt_oss.backends.openai_http.ids import IdsWire
from gpt_oss.params import SamplingParams
from tests.backends.remote.servers import VLLM_FIELDS
from tests.backends.vllm import fake


def test_sampling_params_have_the_names_and_defaults() -> None:
    from vllm import SamplingParams as Theirs

    real = Theirs()
    for field in dataclasses.fields(fake.SamplingParams):
        mine, theirs = getattr(fake.SamplingParams(), field.name), getattr(real, field.name)
        if isinstance(mine, fake.RequestOutputKind):
            mine, theirs = mine.name, theirs.name
        assert mine == theirs or (mine is None and theirs == []), field.name


def test_the_engine_is_made_and_asked_with_declared_arguments() -> None:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    declared = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert {field.name for field in dataclasses.fields(fake.AsyncEngineArgs)} <= declared
    assert list(inspect.signature(AsyncLLM.generate).parameters)[:4] == [
        "self",
        "prompt",
        "sampling_params",
        "request_id",
    ]
    assert next(iter(inspect.signature(AsyncLLM.from_engine_args).parameters)) == "engine_args"
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters


def test_outputs_have_the_fields_that_are_read() -> None:
    from vllm.outputs import CompletionOutput, RequestOutput

    assert {"token_ids", "logprobs", "finish_reason"} <= {field.name for field in dataclasses.fields(CompletionOutput)}
    parameters: dict[str, Any] = dict(inspect.signature(RequestOutput.__init__).parameters)
    assert {"outputs", "finished", "num_cached_tokens"} <= set(parameters)


def test_what_is_posted_is_a_completion_request() -> None:
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    params = SamplingParams(top_k=4, seed=2**63 + 9, logprobs=2, logit_bias={4: 1.0}, stop_token_ids=(7,))
    body = IdsWire("m").body([1, 2], params, 9)
    asked = CompletionRequest.model_validate(json.loads(json.dumps(body)))
    assert asked.prompt == [1, 2]
    assert not asked.model_extra
    assert set(CompletionRequest.model_fields) >= VLLM_FIELDS


def test_the_test_servers_chunks_are_its_chunks() -> None:
    from vllm.entrypoints.openai.completion.protocol import CompletionStreamResponse

    choice = {
        "index": 0,
        "text": "a",
        "logprobs": None,
        "finish_reason": None,
        "stop_reason": None,
        "prompt_token_ids": [1],
        "token_ids": [2],
        "weight_versions": None,
    }
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    chunk["kv_transfer_params"] = None
    text = json.dumps(chunk, separators=(",", ":"))
    assert CompletionStreamResponse.model_validate_json(text).model_dump_json(exclude_unset=True) == text
