"""A research agent in one process: it searches, opens pages, calculates in a sandbox, and cites what it read.

    python examples/research_agent.py demo "How tall is Mont Blanc?"
    python examples/research_agent.py openai/gpt-oss-20b "How many times higher than the Eiffel Tower is Mount Fuji?"

With `demo` the browser reads the few pages that come with the package; otherwise the backend that the environment has
settings for (docs/browser.md), or a folder of your own pages: BROWSER_LOCAL_DIR=pages. Python needs a sandbox
(docs/sandbox.md): bubblewrap on Linux.
"""

import argparse
import asyncio
from contextlib import aclosing

from gpt_oss import AsyncSession, SamplingParams, TurnLimits, load_model
from gpt_oss.events import CitationFound, MessageStarted, TextDelta, ToolDone, ToolStarted, TurnDone
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.simple_browser import SimpleBrowserTool, choose_backend

INSTRUCTIONS = "Look things up rather than guess, calculate with python, and cite the lines that you rely on."


async def main(checkpoint: str, question: str, temperature: float) -> None:
    browser = SimpleBrowserTool(choose_backend("demo" if checkpoint == "demo" else None))
    tools = [browser, PythonTool(stateful=True)]
    instructions = "" if checkpoint == "demo" else INSTRUCTIONS  # the toy was not trained on them
    channel: str | None = None
    sources: dict[str, str] = {}
    params = SamplingParams(temperature=temperature)
    limits = TurnLimits(tokens=20_000)  # of thoughts, calls and the answer together
    model = load_model(checkpoint)
    try:
        async with (
            AsyncSession(model, tools=tools, instructions=instructions, params=params, limits=limits) as session,
            aclosing(session.stream(question)) as events,
        ):
            async for event in events:
                match event:
                    case MessageStarted(header):
                        channel = header.channel
                    case TextDelta(text) if channel == "final":
                        print(text, end="", flush=True)
                    case ToolStarted(_, name, call):
                        print(f"[{name}] {call.content.strip()}")
                    case ToolDone(_, name, _, seconds, failed):
                        print(f"[{name} {'failed' if failed else 'answered'} after {seconds:.1f} s]")
                    case CitationFound(citation):
                        sources[citation.source.url] = citation.source.title
                    case TurnDone(reason, _, usage):
                        print(f"\n[{reason}: {usage.output_tokens} tokens]")
    finally:
        model.close()
    for url, title in sources.items():
        print(f"source: {title}, {url}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder, a downloaded org/name, or demo")
    parser.add_argument("question")
    parser.add_argument("-t", "--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    asyncio.run(main(**vars(parser.parse_args())))
