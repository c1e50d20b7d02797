"""Hugging Face Transformers as the engine, in this process: its GptOssForCausalLM computes, everything else is ours.

Logits go through the engine's own sampler, which comes from load.py, so that params mean here what they mean everywhere
and a seed gives the same draws. Each request has a cache of its own; steps of several requests alternate on one thread.
Finished caches are kept for prompts that begin alike. transformers and torch are imported only when a model is opened.

A step of one token reads every weight that it uses once, as everywhere; Transformers computes one request at a time.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gpt_oss.backends.base import Float32, Logits, SampledToken
from gpt_oss.backends.bridge import Bridge
from gpt_oss.backends.prompt import room
from gpt_oss.errors import BackendError, CapacityError, ConfigError, GptOssError, ParameterError
from gpt_oss.model.checkpoint import Checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import canonical_tensors
from gpt_oss.params import SamplingParams

if TYPE_CHECKING:
    import torch

SCORE_STEP = 128  # tokens that one step scores: each has a row of logits, of 0.8 MB
PROMPT_STEP = 512  # prompt tokens that one step computes: others wait so long, and so does a cancellation
KEPT_CACHES = 4
MOST_REQUESTS = 272  # under way or waiting: what our own engine has
GIB = 2**30


class Draws(Protocol):
    """The sampling of one request: engine/sampling.py's Sampler."""

    def next(self, logits: Logits, row: int, position: int) -> SampledToken: ...

    def score(self, row: Float32, token: int) -> SampledToken: ...


MakeDraws = Callable[[SamplingParams, int], Draws]  # the params, and how many ids may be drawn


def open_generator(
    checkpoint: Checkpoint, make_draws: MakeDraws, precision: str | None = None, *, context_tokens: int | None = None
) -> TransformersGenerator:
    """precision: "bf16" (default) or "float32", of the activations and of what is not kept as MXFP4.

    Weights go to the GPUs that torch sees, else to memory. Where MXFP4 cannot be kept, it warns with the figures before
    it loads. Raises ConfigError for a layout that Transformers does not read, BackendError where memory cannot suffice,
    ParameterError for another precision, ImportError without the packages.
    """
    import torch

    transformers: Any = importlib.import_module("transformers")  # its own types are wanting
    logging = transformers.utils.logging

    dtypes = {"bf16": torch.bfloat16, "float32": torch.float32}
    dtype = dtypes.get(precision or "bf16")
    if dtype is None:
        raise ParameterError(f"the transformers backend's precision is bf16 or float32, not {precision!r}")
    if checkpoint.layout != "huggingface":
        raise ConfigError(
            f"{checkpoint.path} has the {checkpoint.layout} layout, and Transformers reads Hugging Face's only",
            hint=f"gpt-oss convert {checkpoint.path} OUT --to hf, or gpt-oss download … --layout hf",
        )
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "eager", "local_files_only": True}
    if torch.cuda.is_available():
        options["device_map"] = "auto"
    kept = checkpoint.quantized and keeps_mxfp4()
    if not kept:
        _warn_of_memory(checkpoint, dtype.itemsize, on_gpu=torch.cuda.is_available())
        if checkpoint.quantized:
            options["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its advice about kernels and dtypes is in our warning
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path, **options).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendError(f"Transformers cannot open {checkpoint.path}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    experts = "MXFP4" if kept else str(dtype).removeprefix("torch.")
    name = f"transformers ({transformers.__version__}, {model.device.type}, experts in {experts})"
    return TransformersGenerator(model, checkpoint.config, make_draws, name=name, context_tokens=context_tokens)


def keeps_mxfp4() -> bool:
    """Whether Transformers has kernels for MXFP4 on this machine: a GPU from Turing on, Triton, and `kernels`."""
    import torch

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (7, 5):
        return False
    return all(importlib.util.find_spec(name) is not None for name in ("triton", "kernels", "accelerate"))


def needed_bytes(config: ModelConfig, item_bytes: int) -> int:
    """Of all weights when the experts are no longer MXFP4."""
    specs = canonical_tensors(config, quantized=False).values()
    return sum(spec.size_bytes // spec.dtype.itemsize for spec in specs) * item_bytes


def _warn_of_memory(checkpoint: Checkpoint, item_bytes: int, *, on_gpu: bool) -> None:
    """Raises BackendError where it cannot end well."""
    needed = needed_bytes(checkpoint.config, item_bytes)
    free = _free_gpu_bytes() if on_gpu else _free_bytes()
    stored = sum(spec.size_bytes for spec in canonical_tensors(checkpoint.config, checkpoint.quantized).values())
    where = "GPU memory" if on_gpu else "memory"
    figures = f"{needed / GIB:.1f} GiB of {where} for weights of {stored / GIB:.1f} GiB; {free / GIB:.1f} GiB are free"
    if needed > free:
        raise BackendError(
            f"Transformers has no MXFP4 kernels here and would need {figures}",
            hint="The cpu and triton backends compute with the weights as they are stored.",
        )
    if checkpoint.quantized and needed > GIB:
        warnings.warn(f"Transformers has no MXFP4 kernels here: it takes {figures}", stacklevel=3)


def _free_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**62  # unknown: the attempt will tell


def _free_gpu_bytes() -> int:
    import torch

    return sum(torch.cuda.mem_get_info(device)[0] for device in range(torch.cuda.device_count()))


@dataclass(eq=False)
class _Request:
    """tokens: the prompt, then the answer. computed: how many of them the cache holds; unsure while a step runs."""

    tokens: list[int]
    draws: Draws
    cache: Any
    computed: int
    cached: int
    busy: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Rows:
    """backends.base.Logits of one row."""

    values: Float32

    def __len__(self) -> int:
        return len(self.values)

    def numpy(self) -> Float32:
        return self.values


class TransformersGenerator:
    """See backends.base.TokenGenerator. model: a causal language model of Transformers, which becomes this object's."""

    def __init__(
        self,
        model: Any,
        config: ModelConfig,
        make_draws: MakeDraws,
        *,
        name: str,
        context_tokens: int | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.context_tokens = min(context_tokens or config.max_context, config.max_context)
        self._model = model
        self._make_draws = make_draws
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"  # renamed in 5.2x
        self._kept: list[tuple[list[int], Any]] = []  # finished requests' tokens and caches, the oldest first
        self._under_way = 0
        self._bridge = Bridge(name)
        self._computer = ThreadPoolExecutor(1, thread_name_prefix="gpt-oss transformers")

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream(lambda: self._answer(tokens, params))

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream_sync(lambda: self._answer(tokens, params))

    def score(self, prompt: Sequence[int], top: int) -> AsyncIterator[SampledToken]:
        """See base.Scorer."""
        tokens = [int(token) for token in prompt]
        return self._bridge.stream(lambda: self._scores(tokens, top))

    def score_sync(self, prompt: Sequence[int], top: int) -> Iterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream_sync(lambda: self._scores(tokens, top))

    def close(self) -> None:
        self._bridge.close()
        self._computer.shutdown()
        self._kept.clear()
        self._model = None

    async def _answer(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[SampledToken, None]:
        """On the bridge's loop, which alone touches the kept caches; steps run on the computer's thread."""
        most = room(prompt, self.context_tokens, self.config.vocab_size)
        limit = len(prompt) + min(most, params.max_tokens or most)
        draws = self._make_draws(params, self.config.usable_vocab_size)
        self._begin()
        cache, common = self._take(prompt)
        request = _Request(list(prompt), draws, cache, common, common)
        loop = asyncio.get_running_loop()
        failed = True
        try:
            while True:
                token = await loop.run_in_executor(self._computer, self._step, request)
                if token is None:
                    continue
                request.tokens.append(token.id)
                if token.finish_reason is None and len(request.tokens) >= limit:
                    token = replace(token, finish_reason="length")
                if len(request.tokens) == len(prompt) + 1:
                    token = replace(token, cached_tokens=request.cached)
                failed = False
                yield token
                if token.finish_reason is not None:
                    return
                failed = True
        finally:
            self._under_way -= 1
            if not failed and request.computed and request.busy.acquire(blocking=False):
                self._keep(request)

    async def _scores(self, prompt: list[int], top: int) -> AsyncGenerator[SampledToken, None]:
        """On the bridge's loop. Without the kept caches, for what they hold has no logits any more."""
        from transformers import DynamicCache

        room(prompt, self.context_tokens, self.config.vocab_size, least=0)
        draws = self._make_draws(SamplingParams(logprobs=top), self.config.usable_vocab_size)
        self._begin()
        request = _Request(prompt, draws, DynamicCache(), 0, 0)
        loop = asyncio.get_running_loop()
        failed = True
        try:
            while request.computed < len(prompt) - 1:
                tokens = await loop.run_in_executor(self._computer, self._score_step, request)
                for token in tokens[:-1]:
                    yield token
                is_last = request.computed == len(prompt) - 1
                yield replace(tokens[-1], finish_reason="length") if is_last else tokens[-1]
            failed = False
        finally:
            self._under_way -= 1
            if not failed and request.computed:
                self._keep(request)

    def _begin(self) -> None:
        """Raises CapacityError."""
        if self._under_way >= MOST_REQUESTS:
            raise CapacityError(f"{self._under_way} requests are running or waiting already; try again later")
        self._under_way += 1

    def _score_step(self, request: _Request) -> list[SampledToken]:
        """The tokens after the next piece of the prompt, with their scores. Raises BackendError."""
        first = request.computed
        piece = request.tokens[first : min(first + SCORE_STEP, len(request.tokens) - 1)]
        rows = self._forward(piece, request.cache, rows=len(piece))
        request.computed += len(piece)
        following = request.tokens[first + 1 : request.computed + 1]
        return [request.draws.score(row, token) for row, token in zip(rows, following, strict=True)]

    def _step(self, request: _Request) -> SampledToken | None:
        """The next piece of the prompt, or the next token. Raises BackendError."""
        with request.busy:
            piece = request.tokens[request.computed : request.computed + PROMPT_STEP]
            last = request.computed + len(piece) == len(request.tokens)
            row = self._forward(piece, request.cache)
            request.computed += len(piece)
            return request.draws.next(_Rows(row), 0, len(request.tokens)) if last else None

    def _forward(self, piece: Sequence[int], cache: Any, *, rows: int = 1) -> Float32:
        """float32 [rows, vocab_size], of what follows the last tokens of the piece. Raises BackendError."""
        import torch

        try:
            with torch.inference_mode():
                ids = torch.tensor([piece], device=self._model.device)
                out = self._model(ids, use_cache=True, logits_to_keep=rows, **{self._cache_name: cache})
                logits: torch.Tensor = out.logits[0, -rows:]
                values: Float32 = logits.float().cpu().numpy()
                return values
        except GptOssError:
            raise
        except Exception as error:  # a model's own failure ends one request, not the process
            raise BackendError(f"{self.name} failed while computing: {error}") from error

    def _take(self, prompt: Sequence[int]) -> tuple[Any, int]:
        """A cache and how many of the prompt's tokens it holds: a kept one, cut where the two part, or a new one.

        All layers' caches are whole, the windowed ones' too: one that has only its window cannot be cut.
        """
        from transformers import DynamicCache

        common = [_common(tokens, prompt) for tokens, _ in self._kept]
        best = max(range(len(common)), key=common.__getitem__, default=None)
        if best is None or common[best] == 0:
            return DynamicCache(), 0
        tokens, cache = self._kept.pop(best)
        held = min(common[best], len(prompt) - 1)  # the last one is computed again, for its logits
        if held < len(tokens):
            cache.crop(held - len(tokens))
        return cache, held

    def _keep(self, request: _Request) -> None:
        self._kept.append((request.tokens[: request.computed], request.cache))
        while len(self._kept) > KEPT_CACHES or (
            len(self._kept) > 1 and sum(len(tokens) for tokens, _ in self._kept) > self.context_tokens
        ):
            self._kept.pop(0)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
