"""The training loop: packs to gradients to steps, with evaluation, a loss curve, and checkpoints that resume exactly.

What a step learns from depends on the seed and the step's number alone, so a run that is stopped and resumed is the
run that was not. Under torchrun processes share each step's packs. Knows nothing of formats and layouts.
"""

from __future__ import annotations

import atexit
import csv
import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from gpt_oss.errors import ParameterError
from gpt_oss.training.data import Example, Pack, pack
from gpt_oss.training.network import Network, PackTensors

STATE_FILE, CURVE_FILE, PLOT_FILE = "state.pt", "loss.csv", "loss.png"
AT_ONCE = 1 << 24  # numbers sent to the other processes together
COLUMNS = ("step", "tokens", "learning_rate", "loss", "gradient_norm", "held_out_loss", "seconds")


@dataclass(frozen=True)
class TrainOptions:
    """How to train. A step learns from pack_tokens * accumulation tokens in each process.

    steps: how many; None is `epochs` times through the data. learning_rate: at its peak, reached after warmup_steps;
    from there it falls as a cosine to final_share of it. clip: the longest gradient. balance: weight of the penalty
    for using few experts (network.Loss), of use when training from scratch.
    precision: bf16 is autocast, with parameters and sums in float32.
    evaluate_every, save_every: in steps; 0 is at the end only.
    Raises ParameterError for a value out of range.
    """

    learning_rate: float = 2e-4
    warmup_steps: int = 20
    final_share: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    balance: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    epochs: float = 1.0
    steps: int | None = None
    pack_tokens: int = 8192
    accumulation: int = 1
    precision: Literal["bf16", "float32"] = "bf16"
    seed: int = 0
    evaluate_every: int = 0
    save_every: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip", "epochs", "pack_tokens", "accumulation"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} must be over 0, not {getattr(self, name)}")
        for name in ("warmup_steps", "final_share", "weight_decay", "balance", "seed", "evaluate_every", "save_every"):
            if not getattr(self, name) >= 0:
                raise ParameterError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ParameterError(f"steps must be 1 or more, not {self.steps}")
        if self.precision not in ("bf16", "float32"):
            raise ParameterError(f"precision is bf16 or float32, not {self.precision!r}")


# Options that may differ between a run and its continuation: none of them changes what is learnt.
_FREE = {"evaluate_every", "save_every"}


def learning_rate(options: TrainOptions, step: int, steps: int) -> float:
    """Of step number `step`, counted from 0, of `steps`."""
    warm = min(1.0, (step + 1) / (options.warmup_steps + 1))
    done = max(0, step - options.warmup_steps) / max(1, steps - options.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return options.learning_rate * warm * (options.final_share + (1 - options.final_share) * cosine)


class Processes:
    """This process among those of torchrun; alone without it."""

    def __init__(self, device: torch.device) -> None:
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.count = dist.get_world_size() if dist.is_initialized() else 1

    def share(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """This process's packs out of a step's."""
        return packs[self.rank :: self.count]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes the sum of every process's, in place; many small ones travel as one."""
        if self.count > 1:
            for several in together(tensors):
                flat = torch.cat([tensor.flatten() for tensor in several])
                dist.all_reduce(flat)
                for tensor, total in zip(several, torch.split(flat, [t.numel() for t in several]), strict=True):
                    tensor.copy_(total.view_as(tensor))

    def same_start(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes what rank 0 has."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def together(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In their order, in groups of one type, and of at most AT_ONCE numbers where no tensor has more."""
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if group and (tensor.dtype != group[0].dtype or size + tensor.numel() > AT_ONCE):
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.numel()
    if group:
        yield group


class Trainer:
    """A run in the folder `output`, which holds its state, its loss curve as CSV, and a picture of it.

    Only parameters with requires_grad learn and are saved. held_out: examples whose mean loss is measured.
    resume: go on where the state in `output` stands, or begin if there is none; without it a state there is an error,
    so that no run is overwritten by accident.
    Raises ParameterError: nothing to learn from, or a state of a run with other options.
    """

    def __init__(
        self,
        network: Network,
        examples: Sequence[Example],
        options: TrainOptions,
        output: str | Path,
        *,
        held_out: Sequence[Example] = (),
        resume: bool = False,
        progress: bool = False,
    ) -> None:
        if not examples:
            raise ParameterError("there are no examples to train on")
        self.network = network
        self.options = options
        self.output = Path(output)
        self.device = next(network.parameters()).device
        self.processes = Processes(self.device)
        self.step = 0
        self._examples = examples
        self._held_out = pack(held_out, options.pack_tokens)
        self._progress = progress and self.processes.rank == 0
        self._learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(network, options)
        self._packs_a_step = options.accumulation * self.processes.count
        self.steps = options.steps or max(1, round(options.epochs * len(self._epoch(0))))
        self._tokens = 0
        self._curve: list[dict[str, float]] = []
        self._begin(resume)

    def run(self, until: int | None = None) -> None:
        """Train up to step `until`, by default to the end; then the state is saved and the curve drawn."""
        until = self.steps if until is None else min(until, self.steps)
        bar = tqdm(total=self.steps, initial=self.step, unit="step", disable=not self._progress, dynamic_ncols=True)
        with bar:
            for packs in self._stream():
                if self.step >= until:
                    break
                self._curve.append(self._one_step(packs))
                held_out = self._curve[-1]["held_out_loss"]
                shown = {"loss": f"{self._curve[-1]['loss']:.4f}"}
                bar.set_postfix(shown if math.isnan(held_out) else shown | {"held out": f"{held_out:.4f}"})
                bar.update()
                if self.options.save_every and self.step % self.options.save_every == 0 and self.step < until:
                    self.save()
        self.save()

    def _one_step(self, packs: Sequence[Pack]) -> dict[str, float]:
        """Learn from the packs of one step; the row of the curve."""
        started = time.perf_counter()
        rate = learning_rate(self.options, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        targets = max(1, sum(each.target_count for each in packs))
        total = torch.zeros((), device=self.device)
        for each in self.processes.share(packs):
            with autocast(self.options, self.device):
                loss = self.network.loss(PackTensors.of(each, self.device))
                objective = loss.total / targets + self.options.balance / len(packs) * loss.balance
            objective.backward()  # type: ignore[no-untyped-call]
            total += loss.total.detach()
        for parameter in self._learning.values():  # a process without a pack has none, and so has an unused expert
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.add_up([total, *(p.grad for p in self._learning.values() if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(self._learning.values(), self.options.clip)
        if not torch.isfinite(norm):
            raise ParameterError(
                f"the gradient of step {self.step + 1} is not finite: the run has diverged",
                hint="Lower the learning rate; the last saved state is untouched.",
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._tokens += sum(len(each.tokens) for each in packs)
        seconds = time.perf_counter() - started
        due = self.step == self.steps or (self.options.evaluate_every and self.step % self.options.evaluate_every == 0)
        return {
            "step": self.step,
            "tokens": self._tokens,
            "learning_rate": rate,
            "loss": total.item() / targets,
            "gradient_norm": norm.item(),
            "held_out_loss": self.evaluate() if due and self._held_out else math.nan,
            "seconds": round(seconds, 3),
        }

    def evaluate(self) -> float:
        """The mean loss of the held-out targets, in nats."""
        sums = torch.zeros(2, dtype=torch.float64)
        for each in self.processes.share(self._held_out):
            sums += torch.tensor([sum_of_losses(self.network, each, self.options), each.target_count])
        sums = sums.to(self.device)
        self.processes.add_up([sums])
        return float(sums[0] / sums[1])

    # ---- the order of the data ----

    def _stream(self) -> Iterator[Sequence[Pack]]:
        """Each step's packs, from this one on, epoch after epoch."""
        first, number = 0, 0
        while True:
            groups = self._epoch(number)
            if self.step < first + len(groups):
                yield from groups[self.step - first :]
            first += len(groups)
            number += 1

    def _epoch(self, number: int) -> list[Sequence[Pack]]:
        """The steps of an epoch. The last may have fewer packs."""
        order = np.random.default_rng((self.options.seed, number)).permutation(len(self._examples))
        packs = pack((self._examples[i] for i in order), self.options.pack_tokens)
        shuffled = [packs[i] for i in np.random.default_rng((self.options.seed, number, 1)).permutation(len(packs))]
        return [shuffled[i : i + self._packs_a_step] for i in range(0, len(shuffled), self._packs_a_step)]

    # ---- state ----

    def save(self) -> None:
        """Write the state, whole or not at all, the curve, and its picture."""
        if self.processes.rank == 0:
            state = {
                "options": self._identity(),
                "step": self.step,
                "tokens": self._tokens,
                "curve": self._curve,
                "network": {name: p.detach() for name, p in self._learning.items()},
                "optimizer": self.optimizer.state_dict(),
            }
            partial = self.output / f".{STATE_FILE}.partial"
            torch.save(state, partial)
            partial.replace(self.output / STATE_FILE)
            write_curve(self.output / CURVE_FILE, self._curve)
            draw_curve(self.output / PLOT_FILE, self._curve)
        self.processes.wait()

    def _begin(self, resume: bool) -> None:
        path = self.output / STATE_FILE
        self.output.mkdir(parents=True, exist_ok=True)
        if path.exists() and not resume:
            raise ParameterError(f"{self.output} holds a run already", hint="Resume it, or choose another folder.")
        self.processes.wait()
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.device)
            self._check_same_run(state["options"])
            self.step, self._tokens, self._curve = state["step"], state["tokens"], state["curve"]
            with torch.no_grad():
                for name, parameter in self._learning.items():
                    parameter.copy_(state["network"][name])
            self.optimizer.load_state_dict(state["optimizer"])
        self.processes.same_start([p.data for p in self._learning.values()])

    def _identity(self) -> dict[str, Any]:
        """What must be the same in a continuation."""
        options = {k: v for k, v in dataclasses.asdict(self.options).items() if k not in _FREE}
        return options | {
            "steps": self.steps,
            "examples": len(self._examples),
            "processes": self.processes.count,
            "parameters": {name: list(p.shape) for name, p in self._learning.items()},
        }

    def _check_same_run(self, saved: Mapping[str, Any]) -> None:
        now = self._identity()
        for name in now:
            if saved.get(name) != now[name]:
                was = "" if name == "parameters" else f" (it had {saved.get(name)}, now {now[name]})"
                raise ParameterError(f"the run in {self.output} was started with other {name}{was}: it cannot go on")


def make_optimizer(network: Network, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW; matrices inside the blocks decay, tables, norms, biases and sinks do not."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decaying = [p for name, p in named if p.ndim >= 2 and name.startswith("block.") and not name.endswith("bias")]
    others = [p for _, p in named if all(p is not each for each in decaying)]
    groups = [{"params": decaying, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=1e-8, fused=True)


def autocast(options: TrainOptions, device: torch.device) -> AbstractContextManager[Any]:
    if options.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@torch.no_grad()
def sum_of_losses(network: Network, examples: Pack, options: TrainOptions) -> float:
    """Of the targets of a pack, in nats."""
    device = next(network.parameters()).device
    with autocast(options, device):
        return network.loss(PackTensors.of(examples, device)).total.item()


# ---- the loss curve -------------------------------------------------------------------------------------------------


def write_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """A CSV file of COLUMNS; where nothing was measured the field is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in curve
        )


def draw_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """A PNG of the loss against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["step"] for row in curve]
    axes.plot(steps, [row["loss"] for row in curve], linewidth=0.8, label="training")
    measured = [(row["step"], row["held_out_loss"]) for row in curve if not math.isnan(row["held_out_loss"])]
    if measured:
        axes.plot(*zip(*measured, strict=True), marker="o", markersize=3, label="held out")
    axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
