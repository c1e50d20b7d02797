"""Figures for Prometheus: requests, queue, batch, cache, tokens, and how long users wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpt_oss.backends.base import SampledToken

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
NOW = ("running", "waiting", "free_blocks", "free_window_blocks")  # the engine's other figures only grow


class _Engine(Collector):
    """What the engine says of itself when it is asked; nothing where the backend is somebody else's server."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def collect(self) -> Iterator[Metric]:
        stats: Callable[[], Any] | None = getattr(self._generator, "stats", None)
        if stats is None:
            return
        now = stats()
        for name, value in vars(now).items():
            kind = GaugeMetricFamily if name in NOW else CounterMetricFamily
            yield kind(f"gpt_oss_engine_{name}", f"See EngineStats.{name}", value)


class Metrics:
    """The figures of one server. `page` is what /metrics says."""

    def __init__(self, generator: Any) -> None:
        self.registry = CollectorRegistry()
        on: Any = {"registry": self.registry}
        self.requests = Counter("gpt_oss_requests", "HTTP requests", ["path", "status"], **on)
        self.running = Gauge("gpt_oss_answers_running", "Answers being computed", **on)
        self.waiting = Gauge("gpt_oss_answers_waiting", "Answers waiting for their turn", **on)
        self.refused = Counter("gpt_oss_answers_refused", "Requests refused because too many wait", **on)
        self.prompt = Counter("gpt_oss_prompt_tokens", "Tokens of prompts", **on)
        self.cached = Counter("gpt_oss_prompt_tokens_cached", "Those of them that the prefix cache had", **on)
        self.output = Counter("gpt_oss_output_tokens", "Tokens sampled", **on)
        first, between = "From a request to its first token", "Between two tokens of an answer"
        self.first = Histogram("gpt_oss_time_to_first_token_seconds", first, buckets=SECONDS, **on)
        self.between = Histogram("gpt_oss_inter_token_seconds", between, buckets=SECONDS, **on)
        self.registry.register(_Engine(generator))

    def page(self) -> bytes:
        return generate_latest(self.registry)


class Watch:
    """The clock of one answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last = time.monotonic()
        self._begun = False

    def prompt(self, tokens: int) -> None:
        self._metrics.prompt.inc(tokens)

    def sampled(self, token: SampledToken) -> None:
        now = time.monotonic()
        (self._metrics.between if self._begun else self._metrics.first).observe(now - self._last)
        self._begun, self._last = True, now
        self._metrics.output.inc()
        self._metrics.cached.inc(token.cached_tokens)
