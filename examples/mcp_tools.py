"""The tools of an MCP server in a conversation: `python examples/mcp_tools.py CHECKPOINT ["COMMAND OR URL"]`.

Without a command it is notes_server.py, next to this file. Needs `pip install 'gpt-oss[mcp]'`. In the chat the same is
`gpt-oss chat CHECKPOINT --mcp "COMMAND OR URL"`.
"""

import asyncio
import sys
from pathlib import Path

from gpt_oss import AsyncSession, load_model
from gpt_oss.tools.mcp_client import connect


async def main(checkpoint: str, command: str | list[str]) -> None:
    server = await connect(command)
    try:
        print("tools:", ", ".join(tool.name for tool in server.tools))
        model = load_model(checkpoint)
        try:
            async with AsyncSession(model, tools=server.tools, reasoning_effort="low") as session:
                for question in ('Add the note with text "buy milk".', "List the notes."):
                    answer = await session.ask(question)
                    for done in answer.tools:
                        said = done.answers[0].content[0].text
                        print(f"[{done.name} {'failed' if done.failed else 'answered'}: {said}]")
                    print(answer.text)
        finally:
            model.close()
    finally:
        await server.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    own = [sys.executable, str(Path(__file__).with_name("notes_server.py"))]
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else own))
