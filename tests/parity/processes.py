"""The torch or triton backend in several processes under torchrun: `run` starts them, each executes `main` below.

Rank 0 saves logits for the parent to judge; the defects of defects.py are injected in every process alike.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from gpt_oss.backends.base import Float32

ROOT = Path(__file__).parents[2]
BLOCKS = np.arange(4, dtype=np.int32)  # of the cache, copied out and in again


def run(
    checkpoint: Path,
    tokens: np.ndarray,
    folder: Path,
    *,
    processes: int = 2,
    dtype: str = "float32",
    defects: int = 0,
    backend: str = "torch",
) -> dict[str, Float32]:
    """What rank 0 saved: "logits" [tokens, vocab], "resumed" (see main), and "defect i" for the first `defects` ones.

    Raises AssertionError with the processes' output when they fail.
    """
    np.save(folder / "tokens.npy", tokens)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "tests.parity.processes", str(checkpoint), str(folder), dtype, str(defects), backend]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "logits.npz") as saved:
        return dict(saved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dtype")
    parser.add_argument("defects", type=int)
    parser.add_argument("backend")
    args = parser.parse_args()

    from gpt_oss.backends.sequence import SingleSequence
    from gpt_oss.model.checkpoint import open_checkpoint
    from tests.parity.defects import PARALLEL_DEFECTS

    open_model = importlib.import_module(f"gpt_oss.backends.{args.backend}").open_model
    tokens = np.load(args.folder / "tokens.npy")
    saved = {}
    checkpoint = open_checkpoint(args.checkpoint)
    for number, defect in enumerate((None, *PARALLEL_DEFECTS[: args.defects])):
        with defect.injected() if defect else nullcontext():
            model = open_model(checkpoint, dtype=args.dtype, device="cpu", cache_tokens=2 * len(tokens))
        if int(os.environ["RANK"]) > 0:
            model.follow()
            continue
        sequence = SingleSequence(model)
        saved[f"defect {number - 1}" if defect else "logits"] = sequence.forward(tokens, logits=None)
        if not defect:
            # Keys and values go out, are overwritten by other tokens', and come back.
            kept = model.read_cache(BLOCKS, BLOCKS)
            sequence.rewind(0)
            sequence.forward(tokens[::-1], logits=0)
            model.write_cache(BLOCKS, BLOCKS, kept)
            sequence.rewind(len(BLOCKS) * model.block_tokens)
            saved["resumed"] = sequence.forward(tokens[sequence.position :], logits=None)
        model.close()
    if saved:
        np.savez(args.folder / "logits.npz", **saved)


if __name__ == "__main__":
    main()
