"""`gpt-oss doctor`: what this machine has, which backends work here, which models fit, and the command to use."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt_oss import __version__
from gpt_oss.errors import CheckpointError
from gpt_oss.load import available_backends
from gpt_oss.memory import memory_bytes as memory_bytes
from gpt_oss.model.checkpoint import open_checkpoint

GIB = 2**30
MODELS = {"openai/gpt-oss-20b": 12.8, "openai/gpt-oss-120b": 60.8}  # GiB of the released `original/` files
ROOM_GIB = 1.5  # KV cache of an 8k conversation, activations, the interpreter


@dataclass(frozen=True)
class Model:
    name: str
    size_gib: float
    downloaded: str | None  # where, if it is here
    fits_in_memory: bool


@dataclass(frozen=True)
class CachedRepack:
    path: str
    size_bytes: int


@dataclass(frozen=True)
class Report:
    version: str
    python: str
    system: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]  # that the cpu backend's kernels can use here, best first
    memory_gib: float
    memory_free_gib: float
    disk_free_gib: float
    gpus: tuple[str, ...]
    backends: dict[str, str | None]  # name: None if it works, else why not
    models: tuple[Model, ...]
    repacked: tuple[CachedRepack, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        lines = [
            f"gpt-oss {self.version} on Python {self.python}, {self.system}",
            f"processor     {self.cpu}, {self.cores} cores; kernels: {', '.join(self.instruction_sets) or 'not built'}",
            f"memory        {self.memory_gib:.1f} GiB, {self.memory_free_gib:.1f} GiB free",
            f"disk          {self.disk_free_gib:.0f} GiB free here",
            f"GPU           {', '.join(self.gpus) or 'none found'}",
            "backends",
        ]
        lines += [
            f"  {'ok ' if why is None else 'no '} {name:<13} {why or ''}".rstrip()
            for name, why in self.backends.items()
        ]
        lines.append("models")
        for model in self.models:
            where = model.downloaded or f"not here yet: gpt-oss download {model.name}"
            speed = "fits in memory" if model.fits_in_memory else "larger than memory: experts stream from disk, slowly"
            lines.append(f"  {model.name:<21} {model.size_gib:.1f} GiB, {speed}; {where}")
        size = sum(item.size_bytes for item in self.repacked)
        lines.append(f"repacked weights in the cache: {len(self.repacked)} files, {size / GIB:.2f} GiB")
        lines += [f"  {item.path}  {item.size_bytes / GIB:.2f} GiB" for item in self.repacked]
        if self.repacked:
            lines.append("  (gpt-oss doctor --clear-cache deletes them)")
        lines.append(f"use: {self.advice()}")
        return "\n".join(lines)

    def advice(self) -> str:
        here = next((model for model in self.models if model.downloaded and model.fits_in_memory), None)
        if here is not None:
            return f"gpt-oss chat {here.name}"
        fits = [model for model in self.models if model.fits_in_memory]
        wanted = fits[-1] if fits else self.models[0]
        return f"gpt-oss download {wanted.name} && gpt-oss chat {wanted.name}"


def examine() -> Report:
    total, free = memory_bytes()
    memory_gib = total / GIB
    return Report(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        cpu=processor_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        instruction_sets=instruction_sets(),
        memory_gib=memory_gib,
        memory_free_gib=free / GIB,
        disk_free_gib=shutil.disk_usage(Path.cwd()).free / GIB,
        gpus=gpus(),
        backends=available_backends(),
        models=tuple(
            Model(name, size, downloaded(name), size + ROOM_GIB < memory_gib) for name, size in MODELS.items()
        ),
        repacked=repacked(),
    )


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    try:
        from gpt_oss.backends.cpu import instruction_sets as available
    except ImportError:
        return ()
    return tuple(available())


def gpus() -> tuple[str, ...]:
    """Names and memory as the driver's own tool prints them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ("Apple GPU",) if platform.system() == "Darwin" and platform.machine() == "arm64" else ()
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return tuple(answer.stdout.strip().splitlines()) if answer.returncode == 0 else ()


def downloaded(name: str) -> str | None:
    try:
        with open_checkpoint(name) as checkpoint:
            return str(checkpoint.path)
    except CheckpointError:
        return None


def repacked() -> tuple[CachedRepack, ...]:
    try:
        from gpt_oss.backends.cpu import list_cache
    except ImportError:
        return ()
    return tuple(CachedRepack(str(file.path), file.nbytes) for file in list_cache())


def clear_caches() -> str:
    from gpt_oss.backends.cpu import clear_cache

    files = repacked()
    clear_cache()
    return f"deleted {len(files)} files, {sum(item.size_bytes for item in files) / GIB:.2f} GiB"
