// An agent of the TypeScript SDK 1.x, over Streamable HTTP or HTTP+SSE.
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { connect } from './login.mjs';
import { answerElicitation, answerRoots, answerSampling, carryOut, plan } from './plan.mjs';

function agent() {
  const client = new Client({ name: 'agent1', version: '1' }, { capabilities: { elicitation: {}, roots: {}, sampling: {} } });
  client.setRequestHandler(ElicitRequestSchema, answerElicitation);
  client.setRequestHandler(ListRootsRequestSchema, answerRoots);
  client.setRequestHandler(CreateMessageRequestSchema, answerSampling);
  return client;
}

const Transport = plan.era === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
const { client, transport } = await connect(plan, agent, Transport, UnauthorizedError);
await carryOut(client, transport._protocolVersion);
await transport.terminateSession?.();
await client.close();
