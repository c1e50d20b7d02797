"""`gpt-oss`: the one command. Each subcommand imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_oss.terminal import run_command

if TYPE_CHECKING:
    from gpt_oss.model.layout import LayoutName

LAYOUTS: dict[str, LayoutName] = {"original": "original", "hf": "huggingface", "metal": "metal"}


def build_parser() -> argparse.ArgumentParser:
    from gpt_oss import about, chat, generate, mcp_server
    from gpt_oss.server import command as server
    from gpt_oss.shell_completion import SHELLS
    from gpt_oss.training import command as training

    parser = argparse.ArgumentParser(
        prog="gpt-oss",
        description="Run OpenAI's open-weight models gpt-oss-20b and gpt-oss-120b on hardware of your own.",
    )
    parser.add_argument("--version", action=about.VersionAction)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help_text: str, run: object) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(run=run)
        return sub

    chat.add_arguments(command("chat", "Talk to a model in the terminal.", chat.run))
    generate.add_arguments(command("generate", "Continue a prompt.", generate.run))

    download = command(
        "download", "Fetch a released checkpoint from the Hugging Face hub; resumes where it stopped.", run_download
    )
    download.add_argument("repository", metavar="ORG/NAME", help="for instance openai/gpt-oss-20b")
    download.add_argument(
        "--layout", choices=["original", "hf", "metal"], default="original", help="default: %(default)s"
    )
    download.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to (default: the hub's cache)")

    convert = command("convert", "Write a checkpoint in another layout.", run_convert)
    convert.add_argument("source", metavar="CHECKPOINT")
    convert.add_argument("output", metavar="OUTPUT", type=Path)
    convert.add_argument("--to", choices=["original", "hf", "metal", "gguf"], required=True, help="the layout to write")
    convert.add_argument("--adapter", type=Path, metavar="FOLDER", help="merge this LoRA adapter into it")
    convert.add_argument("--bf16", action="store_true", help="with --adapter: write experts in bf16, not as MXFP4")
    convert.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")

    server.add_arguments(command("serve", "Serve a model over HTTP, as OpenAI's API does.", server.run))

    training.add_arguments(
        command("train", "Fine-tune a checkpoint on conversations, with LoRA or wholly.", training.run)
    )

    harmony = command(
        "harmony", "Look at the Harmony format: render messages to tokens, parse tokens to messages.", run_harmony
    )
    harmony.add_argument(
        "action",
        choices=["render", "parse"],
        help='render: OpenAI-style messages (a list, or {"messages": …, "tools": …}) on stdin; '
        "parse: a JSON list of token ids on stdin",
    )

    patch = command(
        "apply-patch", "Apply a patch from stdin, all or nothing, to the files of a folder.", run_apply_patch
    )
    patch.add_argument("--root", type=Path, default=Path("."), help="folder of the files (default: here)")

    mcp_server.add_arguments(
        command("mcp", "Serve a tool to clients of the Model Context Protocol, on stdio or over HTTP.", mcp_server.run)
    )

    doctor = command("doctor", "Tell what this machine can run, and with which command.", run_doctor)
    doctor.add_argument("--json", action="store_true", help="for scripts")
    doctor.add_argument("--clear-cache", action="store_true", help="delete the repacked weights of the cpu backend")

    completion = command("completion", "Print what makes a shell complete this command's arguments.", run_completion)
    completion.add_argument("shell", choices=SHELLS, help="for instance: gpt-oss completion bash >> ~/.bashrc")

    about.add_arguments(command("version", "Tell what is installed, and what it was built from.", about.run))

    for sub in commands.choices.values():
        if not any(action.dest == "debug" for action in sub._actions):
            sub.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def run_download(args: argparse.Namespace) -> int:
    from gpt_oss.model.download import download

    print(download(args.repository, LAYOUTS[args.layout], args.output))
    return 0


def run_convert(args: argparse.Namespace) -> int:
    if args.adapter is not None:
        return _convert_merged(args)
    if args.to == "gguf":
        from gpt_oss.model.checkpoint import open_checkpoint
        from gpt_oss.model.gguf import write_gguf

        with open_checkpoint(args.source) as checkpoint:
            write_gguf(checkpoint, args.output, progress=True)
    else:
        from gpt_oss.model.convert import convert

        convert(args.source, args.output, LAYOUTS[args.to], overwrite=args.force, progress=True)
    print(args.output)
    return 0


def _convert_merged(args: argparse.Namespace) -> int:
    from gpt_oss.errors import ParameterError
    from gpt_oss.model.adapter import MergedWeights, read_adapter
    from gpt_oss.model.checkpoint import open_checkpoint
    from gpt_oss.model.convert import write_checkpoint

    if args.to == "gguf":
        raise ParameterError("an adapter is merged into original, hf or metal; convert that to gguf then")
    with open_checkpoint(args.source) as checkpoint:
        weights = MergedWeights(checkpoint, read_adapter(args.adapter, checkpoint.config), quantized=not args.bf16)
        write_checkpoint(args.output, weights, LAYOUTS[args.to], overwrite=args.force, progress=True)
    print(args.output)
    return 0


def run_harmony(args: argparse.Namespace) -> int:
    from gpt_oss.harmony.commands import parse_command, render_command

    text = sys.stdin.read()
    answer = render_command(text) if args.action == "render" else parse_command(text)
    print(json.dumps(answer, ensure_ascii=False))
    return 0


def run_apply_patch(args: argparse.Namespace) -> int:
    from gpt_oss.tools.apply_patch import apply_patch

    print(apply_patch(sys.stdin.read(), args.root))
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    from gpt_oss import doctor

    if args.clear_cache:
        print(doctor.clear_caches())
        return 0
    report = doctor.examine()
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    return 0


def run_completion(args: argparse.Namespace) -> int:
    from gpt_oss.shell_completion import script

    print(script(build_parser(), args.shell))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_command(args.run, args)


if __name__ == "__main__":
    sys.exit(main())
