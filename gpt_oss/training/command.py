"""`gpt-oss train`: fine-tune a checkpoint on conversations, wholly or with LoRA. Flags, and the order of things.

Under torchrun every process runs this; rank 0 shows progress and writes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from gpt_oss.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    import torch

    from gpt_oss.model.layout import LayoutName
    from gpt_oss.training.data import Example

LAYOUTS: dict[str, LayoutName] = {"original": "original", "hf": "huggingface", "metal": "metal"}
RATES = {"lora": 2e-4, "full": 1e-5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a folder, a model.bin, a downloaded org/name, or demo"
    )
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="conversations, one JSON object a line (docs/training.md)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="for the run and its result")
    parser.add_argument(
        "--lora", type=int, nargs="?", const=8, default=8, metavar="RANK", help="the default, of rank 8"
    )
    parser.add_argument("--alpha", type=float, help="LoRA's alpha (default: twice the rank)")
    parser.add_argument("--target", choices=["all", "attention", "experts"], default="all", help="where LoRA learns")
    parser.add_argument("--full", action="store_true", help="train every weight, not LoRA; parameters are in float32")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="LoRA: go on from this adapter")
    parser.add_argument("--epochs", type=float, default=1.0, help="times through the data (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="stop after so many steps instead")
    parser.add_argument("--learning-rate", type=float, help="at its peak (default: 2e-4 for LoRA, 1e-5 for --full)")
    parser.add_argument("--warmup", type=int, default=20, metavar="STEPS", help="default: %(default)s")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="default: %(default)s")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="of a pass; also the longest conversation (default: %(default)s)"
    )
    parser.add_argument(
        "--accumulate", type=int, default=1, help="passes of each process a step (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: cuda where there is one)")
    parser.add_argument("--held-out", metavar="FILE_OR_SHARE", help="to measure on: a file, or a share such as 0.05")
    parser.add_argument("--evaluate-every", type=int, default=0, metavar="STEPS", help="default: at the end")
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS", help="default: at the end")
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--export", choices=list(LAYOUTS), help="write a whole checkpoint as well: LoRA is merged")
    parser.add_argument("--bf16", action="store_true", help="for --export: experts in bf16, not as MXFP4")


def run(args: argparse.Namespace) -> int:
    try:
        import torch

        from gpt_oss.training.trainer import Trainer, TrainOptions
    except ImportError as error:
        raise MissingDependencyError(f"training needs more: {error}", hint="pip install 'gpt-oss[train]'") from error
    from gpt_oss.model.checkpoint import open_checkpoint

    device = _device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    main = int(os.environ.get("RANK", "0")) == 0
    examples, held_out = _data(args)
    options = TrainOptions(
        learning_rate=args.learning_rate or RATES["full" if args.full else "lora"],
        warmup_steps=args.warmup,
        weight_decay=args.weight_decay,
        epochs=args.epochs,
        steps=args.steps,
        pack_tokens=args.batch_tokens,
        accumulation=args.accumulate,
        precision=args.precision,
        seed=args.seed,
        evaluate_every=args.evaluate_every,
        save_every=args.save_every,
    )
    with open_checkpoint(args.checkpoint) as checkpoint:
        if args.full:
            from gpt_oss.training.network import Network

            network = Network(checkpoint.config, quantize_experts=checkpoint.quantized and not args.bf16)
            network.load(checkpoint)
            network.to(device)
        else:
            from gpt_oss.model.adapter import read_adapter
            from gpt_oss.training.lora import LoraOptions, load_adapter, lora_network

            lora = LoraOptions(
                args.lora, args.alpha or 2.0 * args.lora, args.target != "experts", args.target != "attention"
            )
            dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
            network = lora_network(checkpoint, lora, dtype=dtype, device=device, seed=args.seed)
            if args.adapter is not None:
                load_adapter(network, read_adapter(args.adapter, checkpoint.config))
        trainer = Trainer(network, examples, options, args.output, held_out=held_out, resume=args.resume, progress=True)
        trainer.run()
        if not main:
            return 0
        layout = LAYOUTS[args.export] if args.export else None
        if args.full:
            from gpt_oss.training.export import export

            print(
                export(
                    network, args.output / "model", layout or "huggingface", quantized=not args.bf16, overwrite=True,
                    progress=True,
                )
            )  # fmt: skip
            return 0
        from gpt_oss.model.adapter import MergedWeights, write_adapter
        from gpt_oss.model.convert import write_checkpoint
        from gpt_oss.training.lora import adapter_of

        adapter = adapter_of(network, lora, str(args.checkpoint))
        print(write_adapter(args.output / "adapter", adapter))
        if layout is not None:
            weights = MergedWeights(checkpoint, adapter, quantized=not args.bf16)
            print(write_checkpoint(args.output / "model", weights, layout, overwrite=True, progress=True))
    return 0


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ParameterError(f"there is no device {name!r}; it is cpu, cuda or cuda:N") from None


def _data(args: argparse.Namespace) -> tuple[list[Example], list[Example]]:
    """(to learn from, held out)."""
    from gpt_oss.training.data import read_examples

    examples = read_examples(args.data)
    if args.held_out is None:
        return examples, []
    try:
        share = float(args.held_out)
    except ValueError:
        return examples, read_examples(args.held_out)
    if not 0 < share < 1:
        raise ParameterError(f"--held-out is a file or a share between 0 and 1, not {args.held_out}")
    count = max(1, round(share * len(examples)))
    if count >= len(examples):
        raise ParameterError(f"{args.data} has too few conversations to hold out a share of {share:g}")
    chosen = set(Random(args.seed).sample(range(len(examples)), count))
    return [e for i, e in enumerate(examples) if i not in chosen], [examples[i] for i in sorted(chosen)]
