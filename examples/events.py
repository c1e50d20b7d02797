"""Everything that happens in a turn, as it happens: `python examples/events.py CHECKPOINT "a question"`."""

import asyncio
import sys
from contextlib import aclosing

from gpt_oss import AsyncSession, load_model
from gpt_oss.events import MessageStarted, TextDelta, ToolDone, ToolStarted, TurnDone


async def main(checkpoint: str, question: str) -> None:
    async with AsyncSession(load_model(checkpoint)) as session, aclosing(session.stream(question)) as events:
        async for event in events:
            match event:
                case MessageStarted(header):
                    print(f"\n[{header.channel}]", end=" ")
                case TextDelta(text):
                    print(text, end="", flush=True)
                case ToolStarted(_, name, call):
                    print(f"\n[calls {name}] {call.content}")
                case ToolDone(_, name, _, seconds):
                    print(f"[{name} answered in {seconds:.1f} s]")
                case TurnDone(reason, _, usage):
                    print(f"\n[{reason}: {usage.output_tokens} tokens, {usage.cached_tokens} from the cache]")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
