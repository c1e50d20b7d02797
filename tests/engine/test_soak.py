"""Ten minutes of random load on the engine over the cpu backend; SOAK_SECONDS in the environment makes it shorter.

Clients in threads and on an event loop send requests of a fixed catalogue, so that each answer can be held against a
lone run of the same seed. The cache is too small for them all: blocks are evicted and requests preempted.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gpt_oss.backends.cpu import CpuModel, instruction_sets, open_model
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.engine.sampling import Sampler
from gpt_oss.errors import CapacityError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.params import SamplingParams
from tests.engine.fake_model import Rows

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
VOCAB = 512
CATALOGUE = 200
THREADS, TASKS = 5, 8  # clients
MAX_RUNNING, MAX_WAITING = 6, 5  # fewer than the clients: some are refused
CACHE_TOKENS = 1024
LONGEST = 700  # tokens of a prompt and its answer

# The kernels of plain compute each token by itself, so that tokens are equal however a prompt was cut and batched.
# Faster ones round a little differently in a large batch: there the tokens are not compared, everything else is.
CASES: list[tuple[str, Literal["bf16", "int8"], bool]] = [
    ("plain", "int8", True),
    (instruction_sets()[0], "bf16", False),
]


@dataclass(frozen=True)
class Wanted:
    prompt: tuple[int, ...]
    params: SamplingParams


def catalogue(rng: random.Random) -> list[Wanted]:
    """Requests of many lengths, most of them with a prompt that begins like others' prompts."""
    documents = [[rng.randrange(VOCAB) for _ in range(400)] for _ in range(4)]
    documents.append(documents[1][:32] + documents[0][32:])  # equal blocks behind another beginning
    wanted = []
    for _ in range(CATALOGUE):
        shared = rng.choice(documents)[: rng.choice([0, 31, 32, 33, 150, 256, 400])]
        prompt = shared + [rng.randrange(VOCAB) for _ in range(rng.choice([1, 1, 5, 40, 200]))]
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_p=rng.choice([1.0, 1.0, 0.9]),
            top_k=rng.choice([0, 0, 20]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
            logit_bias=rng.choice([{}, {}, {7: 20.0, 9: 20.0}]),  # two tokens over and over: drafts come true
            seed=rng.randrange(1000),
            max_tokens=rng.choice([1, 3, 20, 50, 100]),
            stop_token_ids=rng.choice([(), tuple(range(5))]),
        )
        wanted.append(Wanted(tuple(prompt), params))
    return wanted


def alone(model: CpuModel, wanted: Wanted) -> list[int]:
    """The answer by definition: no engine, the prompt at one go, then a token at a time."""
    sequence, sampler = SingleSequence(model), Sampler(wanted.params, model.config.usable_vocab_size)
    tokens = list(wanted.prompt)
    new = tokens
    for _ in range(wanted.params.max_tokens or 0):
        row = sequence.forward(new)
        token = sampler.next(Rows([row[0]]), 0, len(tokens)).id
        tokens.append(token)
        new = [token]
        if token in wanted.params.stop_token_ids:
            break
    return tokens[len(wanted.prompt) :]


def resident_bytes() -> int:
    """Memory of this process, now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@dataclass
class Load:
    """What the clients do until `end`, and what became of it."""

    engine: Engine
    wanted: Sequence[Wanted]
    answers: Sequence[Sequence[int]] | None  # None: not compared
    end: float
    seen: Counter[str] = field(default_factory=Counter)
    most_overtaken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: int = 0  # answers whose first token has come

    def draw(self, rng: random.Random) -> tuple[int, int | None]:
        """(index of a request, how many of its tokens to read before it is cancelled; None: all)."""
        return rng.randrange(len(self.wanted)), rng.randrange(10) if rng.random() < 0.2 else None

    def begin(self) -> int:
        with self._lock:
            return self._begun

    def first_token(self, begun_before: int) -> None:
        with self._lock:
            self.most_overtaken = max(self.most_overtaken, self._begun - begun_before)
            self._begun += 1

    def check(self, index: int, got: list[int], cut: bool) -> None:
        params = self.wanted[index].params
        assert params.max_tokens is not None
        if self.answers is not None:
            whole = list(self.answers[index])
            assert got == (whole[: len(got)] if cut else whole), f"request {index}"
        elif not cut:
            assert len(got) == params.max_tokens or got[-1] in params.stop_token_ids
        with self._lock:
            self.seen["cancelled" if cut else "finished"] += 1

    def refused(self) -> None:
        with self._lock:
            self.seen["refused"] += 1

    def thread(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            index, stop_after = self.draw(rng)
            got: list[int] = []
            begun = self.begin()
            stream = self.engine.generate_sync(self.wanted[index].prompt, self.wanted[index].params)
            cut = False
            try:
                for token in stream:
                    if not got:
                        self.first_token(begun)
                    got.append(token.id)
                    cut = len(got) == stop_after and token.finish_reason is None
                    if cut:
                        break
            except CapacityError:
                self.refused()
                time.sleep(rng.expovariate(50))
                continue
            finally:
                stream.close()  # type: ignore[attr-defined]
            self.check(index, got, cut)
            if rng.random() < 0.3:
                time.sleep(rng.expovariate(20))

    async def task(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            index, stop_after = self.draw(rng)
            got: list[int] = []
            begun = self.begin()
            stream = self.engine.generate(self.wanted[index].prompt, self.wanted[index].params)
            cut = False
            try:
                async for token in stream:
                    if not got:
                        self.first_token(begun)
                    got.append(token.id)
                    cut = len(got) == stop_after and token.finish_reason is None
                    if cut:
                        break
            except CapacityError:
                self.refused()
                await asyncio.sleep(rng.expovariate(50))
                continue
            finally:
                await stream.aclose()  # type: ignore[attr-defined]
            self.check(index, got, cut)
            if rng.random() < 0.3:
                await asyncio.sleep(rng.expovariate(20))

    async def tasks(self) -> None:
        await asyncio.gather(*(self.task(100 + i) for i in range(TASKS)))

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS + 1) as pool:
            clients = [pool.submit(self.thread, i) for i in range(THREADS)]
            clients.append(pool.submit(asyncio.run, self.tasks()))
            for client in clients:
                client.result()


@pytest.mark.soak
@pytest.mark.parametrize(("isa", "kv", "compared"), CASES, ids=["plain", "best"])
def test_random_load(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, isa: str, kv: Literal["bf16", "int8"], compared: bool
) -> None:
    def opened(cache_tokens: int) -> CpuModel:
        with open_checkpoint(tiny_checkpoints["original"]) as checkpoint:
            return open_model(
                checkpoint, precision="exact", kv=kv, isa=isa, threads=2, cache_tokens=cache_tokens, cache_dir=tmp_path
            )

    wanted = catalogue(random.Random(1))
    assert max(len(w.prompt) + (w.params.max_tokens or 0) for w in wanted) <= LONGEST
    answers = None
    if compared:
        lone = opened(LONGEST)
        answers = [alone(lone, w) for w in wanted]
        lone.close()

    engine = Engine(opened(CACHE_TOKENS), EngineConfig(max_running=MAX_RUNNING, max_waiting=MAX_WAITING))
    pools = engine._cache.full, engine._cache.windowed
    sizes = [pool.available for pool in pools]
    resident = []
    most_overtaken = 0
    seen: Counter[str] = Counter()
    for part in range(4):  # memory is compared after the first
        load = Load(engine, wanted, answers, time.monotonic() + SECONDS / 2 / 4)
        load.run()
        seen += load.seen
        most_overtaken = max(most_overtaken, load.most_overtaken)
        resident.append(resident_bytes())
        while engine.stats().running or engine.stats().waiting:  # those cancelled last
            time.sleep(0.01)
        assert [pool.held() for pool in pools] == [0, 0], part
        assert [pool.available for pool in pools] == sizes, part
    stats = engine.stats()
    engine.close()
    print(f"\n{isa}, {kv}: {dict(seen)}, overtaken by {most_overtaken} at most, resident {resident}\n{stats}")

    # The load was one: each of these happened, again and again.
    for kind in ("finished", "cancelled", "refused"):
        assert seen[kind] > 0, kind
    assert stats.preempted > 0
    assert stats.cached_tokens > 0
    assert stats.accepted_tokens > 0
    # Nobody starves: a request waits for its first token at most while so many others get theirs.
    assert most_overtaken < 10 * MAX_RUNNING
    assert resident[-1] - resident[0] < 32 * 2**20
