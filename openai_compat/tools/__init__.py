"""Functions that the model may call, the loop that asks it again, the pool that runs calls, and MCP."""

from .tool import Tool as Tool
