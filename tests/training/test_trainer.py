"""The loop: it learns, it resumes to the bit, and processes together do what one does alone."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_oss.errors import ParameterError
from gpt_oss.training.trainer import COLUMNS, Trainer, TrainOptions, learning_rate, together
from tests.training.learning import counting, small_network

ROOT = Path(__file__).parents[2]
OPTIONS = TrainOptions(
    learning_rate=1e-2, warmup_steps=3, steps=12, pack_tokens=64, accumulation=2, precision="float32", seed=5
)
TRAINING, HELD_OUT = counting(100), counting(20, seed=1)


def curve(folder: Path) -> list[dict[str, str]]:
    """The CSV file, without the times."""
    with (folder / "loss.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_it_learns_to_count(precision: str, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, steps=60, precision=precision, evaluate_every=30, balance=0.01)
    trainer = Trainer(small_network(), TRAINING, options, tmp_path, held_out=HELD_OUT)
    before = trainer.evaluate()
    trainer.run()
    assert before > 3
    assert trainer.evaluate() < 0.3
    rows = curve(tmp_path)
    assert [*rows[0], "seconds"] == list(COLUMNS)
    assert [int(row["step"]) for row in rows] == list(range(1, 61))
    assert [row["step"] for row in rows if row["held_out_loss"]] == ["30", "60"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path) -> None:
    whole = Trainer(small_network(), TRAINING, OPTIONS, tmp_path / "whole", held_out=HELD_OUT)
    whole.run()
    Trainer(small_network(), TRAINING, OPTIONS, tmp_path / "parts", held_out=HELD_OUT).run(until=5)
    resumed = Trainer(small_network(9), TRAINING, OPTIONS, tmp_path / "parts", held_out=HELD_OUT, resume=True)
    assert resumed.step == 5
    resumed.run()
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_neither_overwritten_nor_continued_as_another(tmp_path: Path) -> None:
    Trainer(small_network(), TRAINING, OPTIONS, tmp_path).run(until=1)
    with pytest.raises(ParameterError, match="holds a run already"):
        Trainer(small_network(), TRAINING, OPTIONS, tmp_path)
    other = dataclasses.replace(OPTIONS, seed=6)
    with pytest.raises(ParameterError, match=r"started with other seed \(it had 5, now 6\)"):
        Trainer(small_network(), TRAINING, other, tmp_path, resume=True)
    more_often = dataclasses.replace(OPTIONS, save_every=1)
    assert Trainer(small_network(), TRAINING, more_often, tmp_path, resume=True).step == 1


def test_accumulated_packs_learn_what_one_large_pack_does(tmp_path: Path) -> None:
    """The same examples in a step, in two packs or in one: only rounding differs."""
    results = []
    for tokens, accumulation in ((64, 100), (10_000, 1)):
        options = dataclasses.replace(OPTIONS, pack_tokens=tokens, accumulation=accumulation, steps=3)
        trainer = Trainer(small_network(), TRAINING, options, tmp_path / str(tokens))
        trainer.run()
        results.append([float(row["loss"]) for row in curve(tmp_path / str(tokens))])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Twice the processes at half the accumulation: the same packs a step."""
    alone = Trainer(small_network(), TRAINING, OPTIONS, tmp_path / "alone", held_out=HELD_OUT)
    alone.run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.test_trainer", str(tmp_path / "together")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for one, other in zip(curve(tmp_path / "alone"), curve(tmp_path / "together"), strict=True):
        for column in COLUMNS[:-1]:
            assert float(one[column] or 0) == pytest.approx(float(other[column] or 0), rel=1e-4), column


def test_what_travels_together_is_of_one_type_and_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_oss.training.trainer.AT_ONCE", 6)
    tensors = [torch.zeros(n, dtype=kind) for n, kind in ((2, None), (4, None), (1, None), (9, None), (1, torch.half))]
    groups = [[len(tensor) for tensor in group] for group in together(tensors)]
    assert groups == [[2, 4], [1], [9], [1]]


def test_the_learning_rate_rises_and_falls() -> None:
    options = TrainOptions(learning_rate=1.0, warmup_steps=9, final_share=0.1)
    rates = [learning_rate(options, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[1:10] == sorted(rates[1:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert math.isclose(rates[-1], 0.1, rel_tol=0.01)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be over 0, not 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"precision": "fp8"}, "precision is bf16 or float32, not 'fp8'"),
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, float], complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        TrainOptions(**wrong)  # type: ignore[arg-type]


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    network = small_network()
    torch.nn.init.constant_(network.norm.scale, math.inf)
    with pytest.raises(ParameterError, match="gradient of step 1 is not finite"):
        Trainer(network, TRAINING, OPTIONS, tmp_path).run()


if __name__ == "__main__":  # one of the two processes
    halved = dataclasses.replace(OPTIONS, accumulation=1)
    Trainer(small_network(int(os.environ["RANK"])), TRAINING, halved, sys.argv[1], held_out=HELD_OUT).run()
