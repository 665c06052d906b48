"""A small MCP server: counts words."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("words")


@server.tool()
def count_words(words: str) -> int:
    """Count the words of a text."""
    return len(words.split())


if __name__ == "__main__":
    server.run()
