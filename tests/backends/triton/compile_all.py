"""Compile every kernel as the released models launch it, for GPUs that need not be here: `python -m … sm_90 sm_89`.

Prints a JSON object for each kernel and target: registers and spilled bytes of a thread, shared memory of a program.
Wrappers run on tensors without memory; instead of a launch, a kernel is compiled for the arguments that it was given.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from gpt_oss.backends.triton import attention, dense, experts, mxfp4, norm, rotary, route, sampling

HIDDEN, HEADS, KV_HEADS, DIM, EXPERTS, CHOICES, VOCABULARY = 2880, 64, 8, 64, 128, 4, 201_088
BLOCK_TOKENS = 32
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
OPTIONS = ("num_warps", "num_stages", "maxnreg")


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def indices(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int32)


def launches(shared_memory: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every way in which the network starts a kernel: few tokens, and many."""
    for tokens in (1, 64, 2048):
        x, stream = empty(tokens, HIDDEN), empty(tokens, HIDDEN, dtype=torch.float32)
        scale, positions = empty(HIDDEN, dtype=torch.float32), indices(tokens)
        keys, values = empty(4096, KV_HEADS, DIM), empty(4096, KV_HEADS, DIM)
        q, table = empty(tokens, HEADS, DIM), indices(tokens, 300)
        pages = attention.Pages(keys, values, table, BLOCK_TOKENS)
        if tokens == 1:
            qkv, angles = empty(1, (HEADS + 2 * KV_HEADS) * DIM), empty(4096, DIM // 2, dtype=torch.float32)
            yield (
                "rotary",
                lambda: rotary.rotate_and_store(
                    qkv, angles, angles, positions, positions, table, keys, values, BLOCK_TOKENS
                ),
            )
            yield "norm", lambda: norm.add_norm(stream, scale, 1e-5, torch.bfloat16)
            yield "norm of a sum", lambda: norm.add_norm(stream, scale, 1e-5, torch.bfloat16, x)
            shares = empty(1, CHOICES, dtype=torch.float32)
            added = empty(1, CHOICES, HIDDEN)
            yield "norm of experts", lambda: norm.add_norm(stream, scale, 1e-5, torch.bfloat16, added, shares)
            yield "dense", lambda: dense.linear(x, empty(VOCABULARY, HIDDEN), empty(VOCABULARY))
            yield "assign", lambda: route.assign(empty(1, EXPERTS), positions, CHOICES, experts.FEW_TOKENS)
            yield "choose", lambda: route.choose(empty(1, EXPERTS), positions, CHOICES)
            temperatures, seeds = empty(1, dtype=torch.float64), empty(1, dtype=torch.int64)
            yield (
                "sample",
                lambda: sampling.sample(empty(1, VOCABULARY), VOCABULARY, temperatures, seeds, positions),
            )
        if tokens == 2048:
            yield "prefill", lambda: attention.prefill(q, pages, empty(HEADS), positions, positions, indices(130, 2))
        else:
            splits = 32 if tokens == 1 else 1
            yield (
                f"decode, {splits} splits",
                lambda: attention.decode(q, pages, empty(HEADS), positions, positions, splits),
            )
        if tokens == 64:
            yield "assign", lambda: route.assign(empty(16, EXPERTS), positions, CHOICES, experts.FEW_TOKENS)
            continue
        pairs = tokens * CHOICES
        for tile in {experts.tile_tokens(pairs, 32, shared_memory), experts.tile_tokens(pairs, 128, shared_memory)}:
            yield f"group, tiles of {tile}", lambda: route.group(indices(tokens, CHOICES), EXPERTS, tile)
            groups = route.Groups(indices(pairs), indices(pairs, 3), tile)
            yield f"mlp1, tiles of {tile}", lambda: experts.mlp1(x, matrices(2 * HIDDEN), groups, 7.0)
            h = empty(pairs, HIDDEN)
            yield f"mlp2, tiles of {tile}", lambda: experts.mlp2(h, matrices(HIDDEN), groups, tokens)


def matrices(rows: int) -> experts.Matrices:
    count = mxfp4.groups_of(HIDDEN)
    return experts.Matrices(
        indices(EXPERTS, rows, count * 16), indices(EXPERTS, count, rows), empty(EXPERTS, rows), HIDDEN
    )


def compiled(kernel: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], target: GPUTarget) -> Any:
    """What a launch with these arguments would compile, as Triton's specialisation of arguments has it."""
    names = kernel.arg_names
    constants = {name: value for name, value in keywords.items() if name not in OPTIONS}
    signature, attributes = {}, {}
    for i, (name, value) in enumerate(zip(names, arguments, strict=False)):
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif value is None or (isinstance(value, int) and value == 1):
            constants[name] = value
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {name: signature[name] for name in names}, constants, attributes)
    return triton.compile(source, target=target, options={k: v for k, v in keywords.items() if k in OPTIONS})


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory (spills, mostly), of a thread."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2]) + int(found[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+", help="sm_80, sm_89, sm_90, …, or gfx942")
    parser.add_argument("--only", default="", help="kernels whose name starts so")
    args = parser.parse_args()
    for name in args.targets:
        nvidia = name.startswith("sm_")
        target = GPUTarget("cuda", int(name[3:]), 32) if nvidia else GPUTarget("hip", name, 64)
        large = name in ("sm_80", "sm_90", "sm_100")

        def compile_and_report(kernel: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            made = compiled(kernel, arguments, keywords, target)
            report = {"target": name, "launch": launch, "kernel": kernel.__name__, "shared": made.metadata.shared}
            if nvidia:
                registers, spilled = usage(made.asm["cubin"])
                report |= {"registers": registers, "spilled": spilled}
            print(json.dumps(report), flush=True)

        def instead_of_launching(kernel: Any, _grid: Any) -> Callable[..., None]:
            return lambda *arguments, **keywords: compile_and_report(kernel, arguments, keywords)

        with mock.patch.object(JITFunction, "__getitem__", instead_of_launching):
            for launch, start in launches(200 * 1024 if large else 99 * 1024):
                if launch.startswith(args.only):
                    start()


if __name__ == "__main__":
    main()
