"""An agent of the Python SDK: over Streamable HTTP in either era, or over HTTP+SSE.

The argument is what it is to do, in JSON; it prints what came of it, one line of JSON.
"""

import asyncio
import json
import sys
import warnings
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client, MCPError, types
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata

plan = json.loads(sys.argv[1])
asked = []
progress = 0


class Login:
    """Keeps what is learned while logging in, and is the user at the browser."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client

    async def open(self, url):
        async with httpx2.AsyncClient() as browser:
            page = await browser.get(f"{url}&login_hint={plan['user']}")
        self.answer = parse_qs(urlsplit(page.headers["Location"]).query)

    async def answered(self):
        return AuthorizationCodeResult(**{k: self.answer[k][0] for k in ("code", "state", "iss")})

    def provider(self):
        redirect = "http://127.0.0.1:7/callback"
        metadata = OAuthClientMetadata(client_name="agent", redirect_uris=[redirect], token_endpoint_auth_method="none")
        return OAuthClientProvider(plan["url"], metadata, self, self.open, self.answered)


async def elicited(_, params):
    asked.append(params.message)
    return types.ElicitResult(action="accept", content=plan["answers"])


async def sampled(_, params):
    content = params.messages[0].content
    asked.append((content[0] if isinstance(content, list) else content).text)
    return types.CreateMessageResult(role="assistant", model="none", content=types.TextContent(type="text", text="as you say"))


async def rooted(_):
    return types.ListRootsResult(roots=[types.Root(uri="file:///home/wile", name="home")])


async def progressed(*_):
    global progress
    progress += 1


def text(content):
    return "".join(getattr(c, "text", f"[{getattr(c, 'type', 'blob')}]") for c in content)


async def take(client, tool=None, prompt=None, resource=None, complete=None, arguments=None):
    if tool:
        result = await client.call_tool(tool, arguments, progress_callback=progressed)
        return ("failed: " if result.is_error else "") + text(result.content)
    if prompt:
        return text(m.content for m in (await client.get_prompt(prompt, arguments)).messages)
    if resource:
        return text((await client.read_resource(resource)).contents)
    [(name, value)] = arguments.items()
    reference = types.PromptReference(type="ref/prompt", name=complete)
    return " ".join((await client.complete(reference, {"name": name, "value": value})).completion.values)


async def main():
    auth = Login().provider()
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        sse = plan["era"] == "sse"
        transport = sse_client(plan["url"], auth=auth) if sse else streamable_http_client(plan["url"], http_client=http)
        mode = "legacy" if sse else plan["era"]
        answers = {"elicitation_callback": elicited, "list_roots_callback": rooted, "sampling_callback": sampled}
        async with Client(transport, mode=mode, **answers) as client:
            report = {
                "version": client.protocol_version,
                "tools": [t.name for t in (await client.list_tools()).tools],
                "prompts": [p.name for p in (await client.list_prompts()).prompts],
                "resources": [str(r.uri) for r in (await client.list_resources()).resources],
                "templates": [t.uri_template for t in (await client.list_resource_templates()).resource_templates],
                "asked": asked,
                "steps": [],
            }
            for step in plan["steps"]:
                try:
                    said = await take(client, **step)
                except MCPError as e:
                    said = f"error {e.code}"
                report["steps"].append(said)
    print(json.dumps(report | {"progress": progress}))


warnings.simplefilter("ignore")
asyncio.run(main())
