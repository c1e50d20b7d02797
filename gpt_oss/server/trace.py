"""How an answer came about: every token that went to the model and came back, and when what happened. For the raw view
of the page, and its durations. A fold over a turn's events; knows nothing of HTTP and of the API's items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from gpt_oss.events import Event, MessageDone, MessageStarted, RoundStarted, Sampled, ToolDone, ToolStarted
from gpt_oss.harmony.parser import parse
from gpt_oss.server.core.body import Json
from gpt_oss.vocabulary import NUM_TEXT_TOKENS as TEXT
from gpt_oss.vocabulary import StreamDecoder, special_name, token_bytes

DIGITS = 3  # of seconds and of log probabilities


@dataclass
class _Round:
    """known: how many of the prompt's tokens are the first ones of the round before; prompt: those behind them. Times
    in seconds since the response began: of the prompt's departure, of the first and of the last token."""

    known: int
    prompt: list[int]
    begun: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[list[float]]] = field(default_factory=list)  # [id, log probability], the likeliest first
    cached: int = 0
    first: float | None = None
    last: float | None = None


class Trace:
    """Push a turn's events; `body` is what is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._rounds: list[_Round] = []
        self._spans: list[Json] = []  # what was said and done, in order
        self._seen: list[int] = []  # all of the last round

    def push(self, event: Event) -> None:
        match event:
            case RoundStarted(_, prompt):
                known = sum(
                    1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._seen, prompt, strict=False))
                )
                self._rounds.append(_Round(known, list(prompt[known:]), self._now()))
                self._seen = list(prompt)
            case Sampled(token):
                now = self._rounds[-1]
                now.last = self._now()
                now.first = now.last if now.first is None else now.first
                now.cached += token.cached_tokens
                now.tokens.append(token.id)
                self._seen.append(token.id)
                if token.logprob is not None:
                    now.logprobs.append(round(token.logprob, DIGITS))
                    now.top.append([[each, round(logprob, DIGITS)] for each, logprob in token.top_logprobs])
            case MessageStarted(header):
                kind = "call" if header.is_call else "reasoning" if header.channel == "analysis" else "message"
                self._spans.append({"kind": kind, "name": header.recipient, "from": self._now(), "to": None})
            case ToolStarted(_, name, _):
                self._end_span()
                self._spans.append({"kind": "tool", "name": name, "from": self._now(), "to": None})
            case MessageDone() | ToolDone():
                self._end_span()

    def body(self) -> Json:
        self._end_span()
        return {"rounds": [vars(each) for each in self._rounds], "spans": self._spans}

    def _end_span(self) -> None:
        if self._spans and self._spans[-1]["to"] is None:
            self._spans[-1]["to"] = self._now()

    def _now(self) -> float:
        return round(self._clock() - self._began, DIGITS)


def timing(trace: Json) -> Json:
    """The small part of a trace: durations, and how full the context is behind it.

    tokens_per_second: of sampling, without prompts and tools; None where there was one token.
    """
    rounds = trace["rounds"]
    length = 0
    steps, seconds = 0, 0.0
    for each in rounds:
        length = each["known"] + len(each["prompt"]) + len(each["tokens"])
        if each["first"] is not None:
            steps += len(each["tokens"]) - 1
            seconds += each["last"] - each["first"]
    first = rounds[0]["first"] if rounds else None
    return {
        "spans": trace["spans"],
        "context_tokens": length,
        "output_tokens": sum(len(each["tokens"]) for each in rounds),
        "first_token_s": first,
        "tokens_per_second": round(steps / seconds, 2) if steps and seconds > 0 else None,
    }


def readable(trace: Json) -> Json:
    """Every round as Harmony's messages, each with its tokens: [text, id], and for those that were sampled, where it is
    known, the log probability, and the likeliest as [text, log probability]. `known`: how many messages at the
    beginning the round before had as well."""
    rounds = []
    before: list[Json] = []
    seen: list[int] = []
    for each in trace["rounds"]:
        prompt = [*seen[: each["known"]], *each["prompt"]]
        seen = [*prompt, *each["tokens"]]
        messages = _messages(seen, len(prompt), each)
        known = sum(1 for _ in takewhile(lambda pair: _same(*pair), zip(before, messages, strict=False)))
        times = {name: each[name] for name in ("begun", "first", "last")}
        counts = {"prompt_tokens": len(prompt), "cached_tokens": each["cached"], "sampled_tokens": len(each["tokens"])}
        rounds.append({**times, **counts, "known": known, "messages": messages[known:]})
        before = messages
    return {"rounds": rounds, "spans": trace["spans"]}


def _same(a: Json, b: Json) -> bool:
    return [token[1] for token in a["tokens"]] == [token[1] for token in b["tokens"]]


def _messages(tokens: list[int], prompt: int, sampled: Mapping[str, Any]) -> list[Json]:
    """sampled: logprobs and top of what stands behind the first `prompt` tokens."""
    found: list[Json] = []
    at = 0
    for message in parse(tokens, None).messages:
        header = message.header
        decoder = StreamDecoder()
        shown: list[list[object]] = []
        for token in message.tokens:
            text = decoder.push(token) if token < TEXT else decoder.flush() + special_name(token)
            number = at - prompt
            known = 0 <= number < len(sampled["logprobs"])
            more = (
                [sampled["logprobs"][number], [[_text(int(i)), p] for i, p in sampled["top"][number]]] if known else []
            )
            shown.append([text, token, *more])
            at += 1
        if shown and (rest := decoder.flush()):
            shown[-1][0] = f"{shown[-1][0]}{rest}"
        where = {"role": header.role, "name": header.name, "channel": header.channel, "recipient": header.recipient}
        found.append({**where, "sampled": at > prompt, "repairs": list(message.repairs), "tokens": shown})
    return found


def _text(token: int) -> str:
    return token_bytes(token).decode(errors="replace")
