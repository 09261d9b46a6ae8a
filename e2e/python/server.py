"""An MCP server of FastMCP's, at /mcp on the port that is its argument."""

import sys
from dataclasses import dataclass

from fastmcp import Context, FastMCP
from fastmcp.server.elicitation import AcceptedElicitation
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

server = FastMCP("python")


@dataclass
class Person:
    name: str


@server.tool
def add(a: int, b: int) -> int:
    return a + b


@server.tool
async def greet(context: Context) -> str:
    """Asks the user for a name by a request, as the legacy era has it."""
    answer = await context.elicit("Who are you?", response_type=Person)
    return f"Hello, {answer.data.name}!" if isinstance(answer, AcceptedElicitation) else "Hello!"


@server.tool
def meet(context: Context) -> str | InputRequiredResult:
    """Asks the user for a name by its result, as the modern era has it."""
    if context.input_responses:
        return f"Hello, {context.input_responses['name'].content['name']}!"
    form = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    ask = ElicitRequestFormParams(message="Who are you?", requested_schema=form)
    return InputRequiredResult(input_requests={"name": ElicitRequest(params=ask)})


@server.tool
def secret() -> str:
    return "not for agents"


@server.prompt
def review(code: str) -> str:
    return f"Please review: {code}"


@server.resource("python://motto")
def motto() -> str:
    return "Beautiful is better than ugly."


@server.resource("python://squares/{n}")
def square(n: int) -> str:
    return str(n * n)


server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
