"""/tokenize, /detokenize and /tokenizer_info in vLLM's shapes: what a client needs to count and to score tokens itself.

Nothing is put in front of a text: gpt-oss has no token for its beginning, so `add_special_tokens` has no effect.
"""

from __future__ import annotations

import datetime

import pydantic
from fastapi import APIRouter, Request

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.from_chat import from_chat
from gpt_oss.harmony.render import render, render_prompt
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Items, Json, Tools, read_json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.logprobs import shown
from gpt_oss.server.core.tokenising import check_tokens
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import service_of
from gpt_oss.vocabulary import (
    ENDOFTEXT,
    NUM_TEXT_TOKENS,
    RETURN,
    STARTOFTEXT,
    VOCABULARY_SIZE,
    decode,
    encode_with_special,
    special_name,
)

router = APIRouter()


class TokenizeRequest(pydantic.BaseModel):
    """A text, in which special tokens may be written out, or messages as Chat Completions has them."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    prompt: str | None = None
    messages: Items | None = None
    tools: Tools = []
    reasoning_effort: str = "medium"
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(pydantic.BaseModel):
    """Any token ids of the vocabulary, special ones too."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    tokens: list[pydantic.StrictInt]


@router.post("/tokenize", openapi_extra=body_of(TokenizeRequest))
async def tokenize(request: Request) -> Json:
    body = await read_json(request)
    wanted = await aside(lambda: read_as(TokenizeRequest, body))
    tokens = await aside(lambda: _tokens(wanted))
    return {
        "count": len(tokens),
        "max_model_len": service_of(request).runner.generator.context_tokens,
        "tokens": tokens,
        "token_strs": [shown(token) for token in tokens] if wanted.return_token_strs else None,
    }


@router.post("/detokenize", openapi_extra=body_of(DetokenizeRequest))
async def detokenize(request: Request) -> Json:
    body = await read_json(request)
    return {"prompt": await aside(lambda: _text(body))}


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> Json:
    """What the configuration of Hugging Face's tokenizer says, as far as clients ask for it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": service_of(request).runner.generator.context_tokens,
        "vocab_size": NUM_TEXT_TOKENS,
        "total_vocab_size": VOCABULARY_SIZE,
        "bos_token": special_name(STARTOFTEXT),
        "eos_token": special_name(RETURN),
        "pad_token": special_name(ENDOFTEXT),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }


def _text(body: object) -> str:
    """Raises RequestError."""
    wanted = read_as(DetokenizeRequest, body)
    check_tokens(wanted.tokens, "tokens")
    return decode(wanted.tokens)


def _tokens(wanted: TokenizeRequest) -> list[int]:
    """Raises RequestError."""
    if wanted.messages is None:
        if wanted.prompt is None:
            raise RequestError("there is nothing to tokenize: a prompt or messages", param="prompt")
        return encode_with_special(wanted.prompt)
    if wanted.prompt is not None:
        raise RequestError("either a prompt or messages are tokenized, not both", param="messages")
    if wanted.continue_final_message:
        raise RequestError("a message of Harmony has an end and is not continued", param="continue_final_message")
    try:
        conversation = from_chat(
            wanted.messages,
            tools=wanted.tools,
            reasoning_effort=wanted.reasoning_effort,
            current_date=datetime.date.today().isoformat(),
        ).conversation
        return render_prompt(conversation) if wanted.add_generation_prompt else render(conversation)
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
