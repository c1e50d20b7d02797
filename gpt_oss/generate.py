"""`gpt-oss generate` and `python -m gpt_oss.generate`: continue a prompt, token by token, on any checkpoint.

The prompt goes in as it is, without Harmony around it; `--chat` wraps it as a user's message.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.errors import ParameterError
from gpt_oss.load import LoadOptions, backend_names, load
from gpt_oss.params import SamplingParams
from gpt_oss.terminal import run_command
from gpt_oss.vocabulary import CALL, ENDOFTEXT, RETURN, StreamDecoder, encode_ordinary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a folder, a model.bin, a downloaded org/name, or demo"
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", default="How are you?", help='text to continue; "-" reads it from stdin')
    prompt.add_argument("--prompt-tokens", metavar="IDS", help="the prompt as token ids: 1,2,3")
    parser.add_argument("--chat", action="store_true", help="wrap the prompt as a user's message in Harmony")
    parser.add_argument("-t", "--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest tokens; 0 is off (default: off)")
    parser.add_argument(
        "--min-p", type=float, default=0.0, help="drop tokens below this share of the likeliest's probability"
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    parser.add_argument("-l", "--limit", type=int, default=0, help="most tokens to generate; 0: until the model stops")
    parser.add_argument(
        "--json", action="store_true", help='one line a token: {"token": id, "text": "…", "logprob": x}'
    )
    add_load_arguments(parser)


def add_load_arguments(
    parser: argparse.ArgumentParser, *, context: int | None = None, short_backend: bool = True
) -> None:
    """Flags that `load_options` reads. short_backend: `-b` is --backend; in the chat it is the browser."""
    parser.add_argument(
        *(["-b"] if short_backend else []),
        "--backend",
        choices=["auto", *backend_names()],
        default="auto",
        help="what computes (default: cpu; torch under torchrun; openai_http with --url)",
    )
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help="of the server that computes, for vllm, ollama, openai_http; several that have the same model: repeat it",
    )
    parser.add_argument("--url-key", metavar="KEY", help="what that server wants as its API key")
    parser.add_argument(
        "--wire",
        choices=["auto", "ids", "text", "llama.cpp", "sglang"],
        default="auto",
        help="how openai_http's server is spoken to (default: ask it)",
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="vllm: split the model over N GPUs")
    parser.add_argument(
        "--precision",
        help="cpu: balanced (default) or exact; torch: bf16 (default), float32, float64; "
        "metal: bf16 (default), balanced, float32",
    )
    parser.add_argument(
        "--kv", choices=["bf16", "int8"], default="bf16", help="cpu: keys and values; int8 is half the memory"
    )
    parser.add_argument(
        "-c", "--context", type=int, metavar="TOKENS", default=context, help="longest prompt plus answer, in tokens"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter in PEFT's format to merge in (cached)")
    parser.add_argument("--threads", type=int, help="threads of the cpu backend (default: every core)")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def load_options(args: argparse.Namespace) -> LoadOptions:
    return LoadOptions(
        backend=args.backend,
        precision=args.precision,
        kv=args.kv,
        context_tokens=args.context,
        threads=args.threads,
        adapter=args.adapter,
        urls=tuple(args.url),
        url_key=args.url_key,
        wire=args.wire,
        gpus=args.gpus,
    )


def prompt_tokens(args: argparse.Namespace) -> list[int]:
    """Token ids of the prompt that the flags describe."""
    if args.prompt_tokens is not None:
        try:
            tokens = [int(word) for word in args.prompt_tokens.replace(",", " ").split()]
        except ValueError:
            raise ParameterError(f"--prompt-tokens takes ids like 1,2,3, not {args.prompt_tokens!r}") from None
    else:
        text = sys.stdin.read() if args.prompt == "-" else args.prompt
        tokens = chat_prompt(text) if args.chat else encode_ordinary(text)
    if not tokens:
        raise ParameterError("the prompt is empty: give -p some text or --prompt-tokens some ids")
    return tokens


def chat_prompt(text: str) -> list[int]:
    from gpt_oss.harmony.commands import render_chat

    return render_chat([{"role": "user", "content": text}])


def run(args: argparse.Namespace) -> int:
    params = SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        seed=args.seed,
        max_tokens=args.limit or None,
        stop_token_ids=(RETURN, CALL, ENDOFTEXT),
        logprobs=0 if args.json else None,
    )
    tokens = prompt_tokens(args)
    generator = load(args.checkpoint, load_options(args))
    try:
        stream(generator, tokens, params, as_json=args.json)
    finally:
        generator.close()
    return 0


def stream(generator: TokenGenerator, prompt: Sequence[int], params: SamplingParams, *, as_json: bool) -> None:
    """Print the answer as it comes; what it cost goes to stderr."""
    decoder = StreamDecoder()
    started = time.perf_counter()
    first_token_at = None
    count = 0
    for token in generator.generate_sync(prompt, params):
        first_token_at = first_token_at or time.perf_counter()
        count += 1
        text = decoder.push(token.id) + (decoder.flush() if token.finish_reason else "")
        print(json_line(token, text) if as_json else text, end="\n" if as_json else "", flush=True)
    if not as_json:
        print(flush=True)
    if first_token_at is not None:
        print(
            summary(generator.name, len(prompt), count, first_token_at - started, time.perf_counter() - first_token_at),
            file=sys.stderr,
        )


def json_line(token: SampledToken, text: str) -> str:
    return json.dumps({"token": token.id, "text": text, "logprob": token.logprob}, ensure_ascii=False)


def summary(name: str, prompt: int, answer: int, prefill_s: float, decode_s: float) -> str:
    rate = f", {(answer - 1) / decode_s:.1f} tokens/s" if answer > 1 and decode_s > 0 else ""
    return f"[{name}: {prompt} prompt tokens in {prefill_s:.2f} s, {answer} tokens{rate}]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.generate", description="Continue a prompt.")
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
