"""A small MCP server on stdin and stdout, for examples/mcp_tools.py: it keeps notes while it runs.

Any program that speaks the Model Context Protocol does instead. Needs `pip install 'gpt-oss[mcp]'`.
"""

from mcp.server import MCPServer

server = MCPServer("notes")
notes: list[str] = []


@server.tool()
def add_note(text: str) -> str:
    """Adds a note."""
    notes.append(text)
    return f"{len(notes)} notes"


@server.tool()
def list_notes() -> list[str]:
    """Lists the notes."""
    return notes


if __name__ == "__main__":
    server.run()
