"""How well the demo model does what it should: `python -m gpt_oss.demo.evaluate` prints skills against accuracy.

Held-out cases, asked through the whole house: prompt, engine, parser, turn, the real tools. At temperature 0 and 1,
with experts in bf16 and as MXFP4. The cases, the seeds and the arithmetic (float32) are the same everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from tqdm import tqdm

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.demo.cases import EFFORTS, SKILLS, Case, draw
from gpt_oss.demo.data import conversation_of, history_of, toolbox
from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.load import BACKENDS, LoadOptions, load
from gpt_oss.model.compact import CompactWeights, demo_folder
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.params import SamplingParams
from gpt_oss.terminal import run_command
from gpt_oss.tools.tool import text_of
from gpt_oss.turn import Turn, TurnLimits

SEED = 7
AT_ONCE = 12  # turns
REASONING = "reasoning"  # low thinks nothing, medium a little, high more
TABLE = (*SKILLS, REASONING)
LIMITS = TurnLimits(rounds=6, tokens=400)


@dataclass(frozen=True)
class Outcome:
    """What the model did. calls: (recipient, content). files: what lies in the folder of apply_patch afterwards."""

    calls: tuple[tuple[str, str], ...]
    final: str
    reasoning: str
    files: tuple[tuple[str, str], ...]


async def run_case(generator: TokenGenerator, case: Case, params: SamplingParams) -> Outcome:
    """One turn with the case's own tools."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = toolbox(case, folder)
        try:
            turn = Turn(
                generator,
                history_of(case, tools),
                tools,
                params=params,
                limits=LIMITS,
                response_formats=case.formats,
            )
            async for _ in turn:
                pass
        finally:
            await tools.close()
        said = [message for message in turn.messages if isinstance(message, ParsedMessage)]
        patched = sorted((folder / "files").glob("*")) if (folder / "files").is_dir() else []
        return Outcome(
            tuple((m.header.recipient or "", m.content) for m in said if m.header.is_call),
            "".join(m.content for m in said if m.header.channel == "final"),
            "".join(m.content for m in said if m.header.channel == "analysis" and not m.header.is_call),
            tuple((path.name, path.read_text()) for path in patched),
        )


async def is_right(case: Case, outcome: Outcome) -> bool:
    """Whether that is what should have been done. Wording counts only where there is but one right wording."""
    recipients = [recipient for recipient, _ in outcome.calls]
    match case.skill:
        case "arithmetic":
            result = case.final.rpartition(" ")[2]
            return recipients == ["python"] and outcome.final.split()[-1:] == [result]
        case "functions":
            wanted = case.calls[0]
            return (
                recipients == [wanted.recipient]
                and _json(outcome.calls[0][1]) == _json(wanted.content)
                and (wanted.answer or "") in outcome.final
            )
        case "json":
            return not recipients and _json(outcome.final) == _json(case.final)
        case "browser":  # the answer with the citation of the very line
            expected = (await conversation_of(case)).messages[-1]
            assert not isinstance(expected, ParsedMessage)
            return recipients == ["browser.search", "browser.open"] and outcome.final == text_of(expected)
        case "rename":
            return recipients == ["functions.apply_patch"] and outcome.files == renamed(case)
        case _:
            return not recipients and outcome.final == case.final


def renamed(case: Case) -> tuple[tuple[str, str], ...]:
    """What the files of a rename should be: the right patch, applied."""
    from gpt_oss.tools.apply_patch import apply_patch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in case.files.items():
            (folder / path).write_text(text)
        apply_patch(case.calls[0].content, folder)
        return tuple((path.name, path.read_text()) for path in sorted(folder.glob("*")))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


async def accuracy(generator: TokenGenerator, skill: str, count: int, temperature: float) -> float:
    """The share of `count` held-out cases that go right."""
    rng = Random(f"{SEED} {skill}")
    if skill == REASONING:
        cases = [draw(rng, rng.choice(("arithmetic", "functions", "other")), held_out=True) for _ in range(count)]
    else:
        cases = [draw(rng, skill, held_out=True) for _ in range(count)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, case: Case) -> bool:
        params = SamplingParams(temperature=temperature, seed=number)
        async with gate:
            if skill != REASONING:
                return await is_right(case, await run_case(generator, case, params))
            lengths = [
                len((await run_case(generator, replace(case, effort=effort), params)).reasoning) for effort in EFFORTS
            ]
            return lengths[0] == 0 < lengths[1] < lengths[2]

    right = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))
    return sum(right) / len(right)


def table(
    checkpoints: Sequence[tuple[str, Path]], skills: Sequence[str], count: int, backend: str, *, progress: bool = False
) -> dict[str, dict[str, float]]:
    """{skill: {"bf16, T=0": accuracy, …}}."""
    results: dict[str, dict[str, float]] = {skill: {} for skill in skills}
    precision = "float32" if backend == "torch" else None
    bar = tqdm(total=len(checkpoints) * 2 * len(skills), unit="run", disable=not progress)
    for label, path in checkpoints:
        generator = load(path, LoadOptions(backend=backend, precision=precision, context_tokens=8192, speculate=False))
        try:
            for temperature in (0, 1):
                for skill in skills:
                    share = asyncio.run(accuracy(generator, skill, count, temperature))
                    results[skill][f"{label}, T={temperature}"] = share
                    bar.update()
        finally:
            generator.close()
    bar.close()
    return results


def as_markdown(results: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(results.values())))
    lines = [f"| skill | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for skill, shares in results.items():
        lines.append(f"| {skill} | " + " | ".join(f"{100 * shares[column]:.0f} %" for column in columns) + " |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        if args.file is None:
            checkpoints = [("bf16", demo_folder(quantized=False)), ("MXFP4", demo_folder())]
        else:
            checkpoints = [
                (
                    label,
                    write_checkpoint(
                        Path(folder) / label, CompactWeights(args.file, quantized=quantized), "huggingface"
                    ),
                )
                for label, quantized in (("bf16", False), ("MXFP4", True))
            ]
        if args.experts != "both":
            checkpoints = [entry for entry in checkpoints if entry[0] == args.experts]
        results = table(checkpoints, args.skill or TABLE, args.count, args.backend, progress=sys.stderr.isatty())
    print(json.dumps(results) if args.json else as_markdown(results))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.demo.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="a compact file (default: the demo model of the package)")
    parser.add_argument("--count", type=int, default=100, help="cases a skill (default: %(default)s)")
    parser.add_argument("--skill", action="append", choices=TABLE, help="only this skill; may be repeated")
    parser.add_argument("--experts", choices=["both", "bf16", "MXFP4"], default="both")
    parser.add_argument("--backend", choices=list(BACKENDS), default="torch", help="default: %(default)s, in float32")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
