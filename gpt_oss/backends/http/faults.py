"""What goes wrong between here and a server, as our errors; what may be tried again, and after how long."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from gpt_oss.errors import BackendError, CapacityError, ContextOverflowError, GptOssError, ParameterError

_TRY_AGAIN = frozenset((408, 425, 429, 502, 503, 504))
_OVERFLOW = re.compile(r"context|too long|maximum.{0,30}length|max_model_len|exceed\w* .{0,40}token", re.IGNORECASE)


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try.

    connect_s: for a connection. first_token_s: from the request to the first token: a long prompt on a slow machine, a
    model that is being loaded. stall_s: between two signs of life within an answer. rounds: how often every server is
    tried before the first token; first_wait_s: between the first two rounds, twice as long after each. longest_wait_s:
    what Retry-After may ask at most.
    """

    connect_s: float = 10.0
    first_token_s: float = 1800.0
    stall_s: float = 60.0
    rounds: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0


class FaultError(Exception):
    """error: what the user is told when it is final. again: another try may help. wait_s: what the server asked for.
    down: nobody is there, so others should not be sent to it for a while."""

    def __init__(
        self, error: GptOssError, *, again: bool = False, wait_s: float | None = None, down: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.wait_s = wait_s
        self.down = down


def of_transport(error: httpx.TransportError | httpx.InvalidURL, url: str, tokens: int) -> FaultError:
    """A connection that fails, or breaks off after so many tokens."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return FaultError(ParameterError(f"{url} is no address of a server: it looks like http://127.0.0.1:8000"))
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return FaultError(nobody_answers(url, error), again=True, down=True)
    if tokens:
        return cut_off(url, tokens)
    reason = str(error) or type(error).__name__
    return FaultError(BackendError(f"the connection to {url} broke off before the first token: {reason}"), again=True)


def nobody_answers(url: str, error: Exception) -> BackendError:
    reason = f": {error}" if str(error) else ""
    return BackendError(f"nothing answers at {url}{reason}", hint="Start the server, or say where it is with --url.")


def cut_off(url: str, tokens: int) -> FaultError:
    if not tokens:
        return FaultError(BackendError(f"{url} ended the answer before its first token"), again=True)
    return FaultError(
        BackendError(
            f"{url} broke off in the middle of an answer, after {tokens} tokens",
            hint="Its log may say why; ask again.",
        )
    )


def stalled(url: str, tokens: int, seconds: float) -> FaultError:
    what = (
        f"has sent nothing for {seconds:g} s, after {tokens} tokens"
        if tokens
        else f"has begun no answer in {seconds:g} s"
    )
    return FaultError(BackendError(f"{url} {what}"))


def malformed(url: str, shown: str) -> FaultError:
    return FaultError(BackendError(f"{url} sent what is no event of its kind of server: {shown}"))


def of_status(status: int, body: bytes, headers: Mapping[str, str], url: str) -> FaultError:
    """A response that is no stream."""
    text = message(body)
    said = f": {text}" if text else ""
    if status in _TRY_AGAIN:
        wait_s = retry_after(headers.get("retry-after"))
        error: GptOssError = BackendError(f"{url} answers {status}{said}")
        if status in (429, 503):
            later = f" (it asks to wait {wait_s:g} s)" if wait_s else ""
            error = CapacityError(f"{url} has no room now{said}{later}; try again later")
        return FaultError(error, again=True, wait_s=wait_s)
    if status in (401, 403):
        return FaultError(BackendError(f"{url} wants another API key{said}", hint="Give it with --url-key."))
    if status == 404:
        return FaultError(BackendError(f"{url} does not know the model or the path{said}"))
    if 400 <= status < 500:
        if _OVERFLOW.search(text):
            return FaultError(
                ContextOverflowError(f"prompt is too long for {url}{said} (over its maximum context length)")
            )
        return FaultError(ParameterError(f"{url} refuses the request{said or f' with status {status}'}"))
    return FaultError(BackendError(f"{url} has failed with status {status}{said}"))


def of_event(event: dict[str, Any], url: str, tokens: int) -> FaultError:
    """An error that comes as an event of the stream."""
    inner = event["error"]
    code = inner.get("code") if isinstance(inner, dict) else None
    if not tokens and isinstance(code, int) and 400 <= code < 600:
        return of_status(code, json.dumps(event).encode(), {}, url)
    after = f" after {tokens} tokens" if tokens else ""
    return FaultError(BackendError(f"{url} has failed{after}: {_said(event) or 'it does not say why'}"))


def message(body: bytes) -> str:
    """What an error's body says, in any server's form, in one line."""
    try:
        text = _said(json.loads(body))
    except ValueError:
        text = "" if body.lstrip()[:1] == b"<" else body.decode(errors="replace")  # not a proxy's page
    return " ".join(text.split())[:300]


def _said(content: Any) -> str:
    while isinstance(content, dict):
        content = next((content[name] for name in ("error", "message", "detail") if content.get(name)), "")
    return content if isinstance(content, str) else json.dumps(content)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it asks for nothing sensible."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
