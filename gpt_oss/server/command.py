"""`gpt-oss serve`: flags, the model, the socket, and an orderly end."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_oss.errors import GptOssError, MissingDependencyError, ParameterError
from gpt_oss.generate import add_load_arguments, load_options

if TYPE_CHECKING:
    from gpt_oss.backends.base import TokenGenerator
    from gpt_oss.server.core.hosted import Hosted
    from gpt_oss.server.gate import ServerOptions
    from gpt_oss.server.keys import Keys
    from gpt_oss.server.service import Service
    from gpt_oss.server.state.instance import Instance
    from gpt_oss.server.state.store import Store

OLLAMA_PORT = 11434
KEY_VARIABLE = "GPT_OSS_API_KEY"
log = logging.getLogger("gpt_oss.server")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        default="demo",
        help="a folder, a model.bin, or a downloaded org/name (default: demo, the tiny model of this package)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="default: 8000")
    parser.add_argument("--model-name", metavar="NAME", help="the name that clients see (default: the checkpoint's)")
    _add_access(parser)
    _add_store_and_tools(parser)
    _add_limits(parser)
    add_load_arguments(parser, context=32768)


def _add_access(parser: argparse.ArgumentParser) -> None:
    """Flags of who may ask."""
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="what clients must show; repeatable. Others on this machine can read it in the list of processes:"
        f" {KEY_VARIABLE} and --key-file keep it from them",
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="hashes of the keys that clients may show")
    parser.add_argument("--new-key", metavar="NAME", help="add a key to --key-file, print it once, and end")
    parser.add_argument("--no-key", action="store_true", help="serve beyond this machine without a key")
    parser.add_argument(
        "--share", action="store_true", help="what one key has made is there for all keys (default: for itself)"
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may ask; repeatable (default: none)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that this server may be asked by, where no key is needed; repeatable, * for any",
    )


def _add_store_and_tools(parser: argparse.ArgumentParser) -> None:
    """Flags of what is kept, and of the tools that run here."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="where responses are kept: a file or postgres://… (default: a file of this user's)",
    )
    parser.add_argument("--no-store", action="store_true", help="keep nothing on disk")
    parser.add_argument(
        "--retention", type=float, default=30, metavar="DAYS", help="0: for ever (default: %(default)s)"
    )
    parser.add_argument(
        "--no-code-interpreter", action="store_true", help="do not run code for clients that declare code_interpreter"
    )
    parser.add_argument(
        "--python-sandbox", default="auto", metavar="NAME", help="what the code runs in (default: auto)"
    )
    parser.add_argument(
        "--browser-backend",
        metavar="NAME",
        help="for clients that declare web_search: exa, youcom, searxng, local, demo",
    )
    parser.add_argument(
        "--mcp", action="append", default=[], metavar="URL", help="MCP servers that clients may name; repeatable"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Flags of limits, of the log, and of what else the server can be."""
    parser.add_argument("--max-time", type=float, metavar="SECONDS", help="of one answer, tools included")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="of one answer, whatever the client asks (default: the context)"
    )
    parser.add_argument("--log-prompts", action="store_true", help="write what is asked and said into the log")
    parser.add_argument(
        "--ollama-compatible", action="store_true", help="also Ollama's API, on its port 11434 unless --port says other"
    )
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="play these answers back in a model's place, to test clients: JSON lines of text or tokens",
    )
    parser.add_argument("--script-log", type=Path, metavar="FILE", help="add every prompt to this file, as a JSON line")
    parser.add_argument("--max-concurrent", type=int, default=32, help="answers at a time (default: %(default)s)")
    parser.add_argument("--max-queue", type=int, default=128, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--drain", type=float, default=30.0, metavar="SECONDS", help="to finish at the end")


def run(args: argparse.Namespace) -> int:
    """Serve a model over HTTP, as OpenAI's API does."""
    if args.new_key is not None:
        return _new_key(args)
    args.port = args.port or (OLLAMA_PORT if args.ollama_compatible else 8000)
    _check_address(args)
    _check_script(args)
    try:
        from gpt_oss.server.app import create_app
        from gpt_oss.server.listen import hang_up_drains, limits_of_this_process, make_server
    except ImportError as error:
        raise MissingDependencyError(
            f"the server lacks what it needs: {error}", hint="Install gpt-oss again, with its dependencies."
        ) from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with open_service(args) as (service, options):
        app = create_app(service, options)
        backend = service.runner.generator.name
        print(f"Serving {service.model} on http://{args.host}:{args.port}/v1 ({backend})", file=sys.stderr)
        limits = limits_of_this_process()
        server = make_server(app, service, drain_s=args.drain, limits=limits, host=args.host, port=args.port)
        hang_up_drains(server)
        server.run()
    return 0


@contextmanager
def open_service(
    args: argparse.Namespace, *, owner: str | None = None, seal_key: bytes | None = None
) -> Iterator[tuple[Service, ServerOptions]]:
    """The model and the store that the flags name, ready to be served; closed at the end.

    owner: this server among those that share a store; None finds a name in the data folder.
    seal_key: None takes the one of this machine's user.
    """
    from gpt_oss.chat import model_label
    from gpt_oss.harmony.grammar import answer_grammar
    from gpt_oss.harmony.trials import contain
    from gpt_oss.load import load
    from gpt_oss.server.core.aside import start_threads
    from gpt_oss.server.gate import ServerOptions, known_hosts
    from gpt_oss.server.runner import Runner
    from gpt_oss.server.service import Service
    from gpt_oss.server.state.memory import Seal

    keys = _keys(args)
    hosted = _hosted(args)
    store, instance = _open_store(args, owner)
    seal = Seal(seal_key or user_seal_key(args))
    generator = _scripted(args) if args.script else load(args.checkpoint, load_options(args))
    try:
        start_threads()
        contain().warm()  # a process that builds a token table of its own, meanwhile
        answer_grammar(json_object=True)  # builds the token table now rather than in the first request
        runner = Runner(
            generator,
            max_concurrent=args.max_concurrent,
            max_queue=args.max_queue,
            longest_s=args.max_time,
            most_tokens=args.max_tokens,
        )
        checkpoint = "script" if args.script else getattr(generator, "served_model", args.checkpoint)
        name = args.model_name or model_label(checkpoint)
        options = ServerOptions(
            drain_s=args.drain,
            origins=tuple(args.cors),
            ollama=args.ollama_compatible,
            log_prompts=args.log_prompts,
            hosts=known_hosts(args.host, args.allow_host),
        )
        yield Service(runner, name, keys, store, seal, hosted=hosted, share=args.share), options
    finally:
        generator.close()
        if store is not None:
            store.close()
        if instance is not None:
            instance.close()


def _open_store(args: argparse.Namespace, owner: str | None) -> tuple[Store | None, Instance | None]:
    """The store that the flags name, and this server's place in the data folder where it has no name yet."""
    from gpt_oss.server.state.database import database_file
    from gpt_oss.server.state.instance import Instance
    from gpt_oss.server.state.store import Store

    if args.no_store:
        return None, None
    address = store_address(args)
    if owner is not None:
        return Store(address, owner=owner, retention_days=args.retention), None
    file = database_file(address)
    instance = Instance(_state() if file is None else file.parent, alone=file is not None)
    store = Store(address, owner=instance.name, retention_days=args.retention, is_gone=instance.is_gone)
    return store, instance


def store_address(args: argparse.Namespace) -> str:
    """What --store names, else a file of this user's."""
    return args.store or str(_state() / "server.db")


def user_seal_key(args: argparse.Namespace) -> bytes | None:
    """The key that reasoning is sealed with, kept next to the database; None, one for this process, with --no-store."""
    from gpt_oss.server.state.memory import key_in

    return None if args.no_store else key_in(_state() / "seal.key")


def _state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpt-oss"


def _new_key(args: argparse.Namespace) -> int:
    from gpt_oss.server.keys import new_key

    if args.key_file is None:
        raise ParameterError("--new-key needs --key-file, to which its hash is added")
    print(new_key(args.key_file, args.new_key))
    return 0


def _hosted(args: argparse.Namespace) -> Hosted:
    """web_search where a backend is known, code_interpreter where a sandbox works; both are tried now."""
    from gpt_oss.load import computes_elsewhere
    from gpt_oss.server.core.hosted import Hosted
    from gpt_oss.tools.python_docker.docker_tool import PythonTool
    from gpt_oss.tools.sandbox import open_sandbox
    from gpt_oss.tools.simple_browser import SimpleBrowserTool
    from gpt_oss.tools.simple_browser.backend import choose_backend

    async def try_sandbox() -> None:
        await (await open_sandbox(args.python_sandbox)).close()

    web = code = None
    is_demo = args.checkpoint == "demo" and not args.script and not computes_elsewhere(load_options(args))
    name = args.browser_backend or ("demo" if is_demo else None)
    try:
        choose_backend(name)
    except ParameterError as error:
        if args.browser_backend:
            raise
        log.info("web_search is off: %s", error)
    else:
        web = lambda: SimpleBrowserTool(choose_backend(name))  # noqa: E731
    if not args.no_code_interpreter:
        try:
            asyncio.run(try_sandbox())
        except GptOssError as error:
            log.warning("code_interpreter is off: %s", error)
        else:
            code = lambda: PythonTool(args.python_sandbox, stateful=True)  # noqa: E731
    return Hosted(web, code, tuple(args.mcp))


def _keys(args: argparse.Namespace) -> Keys:
    """The keys that the flags and the environment name. Raises ParameterError for an empty one."""
    from gpt_oss.server.keys import Keys, check_plain, read_keys

    plain = check_plain(args.api_key, "--api-key")
    if KEY_VARIABLE in os.environ:
        plain += check_plain([os.environ[KEY_VARIABLE]], KEY_VARIABLE)
    hashed = read_keys(args.key_file) if args.key_file else ()
    return Keys(plain, hashed, path=args.key_file)


def _scripted(args: argparse.Namespace) -> TokenGenerator:
    """What plays --script back. Raises ParameterError where the script cannot be used."""
    from gpt_oss.backends.script_file import ScriptFileGenerator

    return ScriptFileGenerator(args.script, context_tokens=args.context, log=args.script_log)


def _check_script(args: argparse.Namespace) -> None:
    """Raises ParameterError where --script or --script-log contradicts another argument."""
    if args.script_log and not args.script:
        raise ParameterError("--script-log needs --script, whose prompts it holds")
    if args.script and (args.checkpoint != "demo" or args.url or args.adapter):
        raise ParameterError("--script answers in a model's place: give it no checkpoint, --url or --adapter")
    if args.script and args.context < 1:
        raise ParameterError(f"--context must be 1 or more, not {args.context}")


def _check_address(args: argparse.Namespace) -> None:
    """Raises ParameterError for an address that others can reach, without a key."""
    try:
        local = args.host == "localhost" or ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        local = False
    if not (local or args.api_key or args.key_file or args.no_key or KEY_VARIABLE in os.environ):
        raise ParameterError(
            f"{args.host} can be reached by others",
            hint=f"Set {KEY_VARIABLE}, --api-key or --key-file, or say --no-key if that is meant.",
        )
    if not 0 < args.port < 65536:
        raise ParameterError(f"a port is 1 to 65535, not {args.port}")
