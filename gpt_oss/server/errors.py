"""Errors as OpenAI's API has them: {"error": {message, type, param, code}} with a status."""

from __future__ import annotations

from typing import Any

from gpt_oss.errors import CapacityError, ContextOverflowError, GptOssError, HarmonyError, ParameterError

RETRY_AFTER_S = 2


class RequestError(GptOssError):
    """A request that cannot be served. param: the field that is wrong."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code


def as_response(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body, headers) of an error. What is not the client's doing tells nothing of the inside."""
    match error:
        case RequestError():
            return _error(error.status, str(error), error.param, error.code)
        case CapacityError():
            status, body, _ = _error(429, str(error), None, "rate_limit_exceeded", "rate_limit_error")
            return status, body, {"Retry-After": str(RETRY_AFTER_S)}
        case ContextOverflowError():
            return _error(400, str(error), "messages", "context_length_exceeded")
        case HarmonyError() | ParameterError():
            return _error(400, str(error), None, None)
        case GptOssError():
            return _error(503, str(error), None, "backend_error", "server_error")
        case _:
            return _error(500, "the server has failed; its log says why", None, None, "server_error")


def _error(
    status: int, message: str, param: str | None, code: str | None, kind: str = "invalid_request_error"
) -> tuple[int, dict[str, Any], dict[str, str]]:
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, {}
