"""Every error of a request, in the shape of the API that was asked."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gpt_oss.errors import GptOssError
from gpt_oss.server.core.errors import RequestError, body_of, failure_of, shape_of
from gpt_oss.server.core.stream import GoneError

CLIENT_CLOSED = 499
# The field that holds the prompt, by the beginning of the path; elsewhere it is `messages`.
PROMPT_FIELDS = {"/v1/responses": "input", "/v1/completions": "prompt", "/tokenize": "prompt"}
log = logging.getLogger("gpt_oss.server")


def told(request: Request, error: Exception) -> Response:
    """The answer that tells an error."""
    path = request.url.path
    field = next((field for start, field in PROMPT_FIELDS.items() if path.startswith(start)), "messages")
    failure = failure_of(error, overflow_param=field)
    body = body_of(failure, shape_of(path, request.headers))
    return JSONResponse(body, failure.status, dict(failure.headers))


async def _failed(request: Request, error: Exception) -> Response:
    answer = told(request, error)
    if answer.status_code >= 500:
        log.error("%s %r failed", request.method, request.url.path, exc_info=error)
    return answer


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return told(request, RequestError(message, status=error.status_code))


async def _hung_up(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _invalid(request: Request, error: Exception) -> Response:
    """A path or a query that is wrong; bodies are read by their routes."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return told(request, RequestError(f"{name}: {first['msg']}", param=name))


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(GoneError, _hung_up)
    app.add_exception_handler(GptOssError, _failed)
    app.add_exception_handler(Exception, _failed)
