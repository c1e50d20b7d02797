"""Errors of requests, and the shape in which each API tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpt_oss.errors import CapacityError, ContextOverflowError, GptOssError, HarmonyError, ParameterError

RETRY_AFTER_S = 2
# What ends a task from outside; anything else, also a library's BaseException, is a failure that can be told.
ENDS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)


class RequestError(GptOssError):
    """A request that cannot be served.

    param: the field that is wrong.
    status: of HTTP.
    code: OpenAI's word for the error, where it has one.
    details: what Anthropic's SDKs read of it, where they act on it.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, field=param)
        self.details = details
        self.param = param
        self.status = status
        self.code = code


class Shape(Enum):
    """The form of an error's body.

    OPENAI: {"error": {message, type, param, code}}.
    ANTHROPIC: {"type": "error", "error": {type, message}}.
    OLLAMA: {"error": message}.
    """

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


@dataclass(frozen=True)
class Failure:
    """An error as HTTP has it, in no API's shape yet.

    kind: OpenAI's `type`. headers: of the answer.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] | None = None


ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def shape_of(path: str, headers: Mapping[str, str]) -> Shape:
    """The shape of errors of a path; headers: of the request, with names in lower case."""
    if path.startswith("/v1/messages") or ("anthropic-version" in headers and path.startswith("/v1/")):
        return Shape.ANTHROPIC
    return Shape.OLLAMA if path.startswith("/api/") else Shape.OPENAI


def failure_of(error: BaseException, *, overflow_param: str = "messages") -> Failure:
    """What a client is told of an error. What is not its doing tells nothing of the inside.

    overflow_param: the field that holds a prompt that is too long.
    """
    match error:
        case RequestError():
            return Failure(error.status, str(error), error.param, error.code, details=error.details)
        case CapacityError():
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return Failure(429, str(error), None, "rate_limit_exceeded", "rate_limit_error", headers)
        case ContextOverflowError():
            return Failure(400, overflow_sentence(str(error)), overflow_param, "context_length_exceeded")
        case HarmonyError() | ParameterError():
            return Failure(400, str(error), error.field)
        case GptOssError():
            return Failure(503, str(error), None, "backend_error", "server_error")
    return Failure(500, "the server has failed; its log says why", None, None, "server_error")


def overflow_sentence(text: str) -> str:
    """The sentence of an overflow, with both phrases by which agents know that they must compact."""
    if "prompt is too long" not in text:
        text = f"prompt is too long: {text}"
    return text if "maximum context length" in text else f"{text} (over the maximum context length)"


def body_of(failure: Failure, shape: Shape) -> dict[str, Any]:
    """The body that tells a failure."""
    match shape:
        case Shape.ANTHROPIC:
            kind = ANTHROPIC_KINDS.get(failure.status) or _anthropic_kind(failure.status)
            told = {"type": kind, "message": failure.message}
            return {"type": "error", "error": told | ({"details": failure.details} if failure.details else {})}
        case Shape.OLLAMA:
            return {"error": failure.message}
    error = {"message": failure.message, "type": failure.kind, "param": failure.param, "code": failure.code}
    return {"error": error}


def _anthropic_kind(status: int) -> str:
    return "invalid_request_error" if status < 500 else "api_error"


def as_response(error: BaseException, shape: Shape = Shape.OPENAI) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body, headers) of an error."""
    failure = failure_of(error)
    return failure.status, body_of(failure, shape), dict(failure.headers)
