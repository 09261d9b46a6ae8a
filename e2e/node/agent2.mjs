// An agent of the TypeScript SDK 2.x, over Streamable HTTP in either era, or over HTTP+SSE.
import { Client, SSEClientTransport, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { connect } from './login.mjs';
import { answerElicitation, answerRoots, answerSampling, carryOut, plan } from './plan.mjs';

function agent() {
  const client = new Client({ name: 'agent2', version: '1' }, {
    capabilities: { elicitation: {}, roots: {}, sampling: {} },
    versionNegotiation: { mode: plan.era === 'sse' ? 'legacy' : plan.era },
  });
  client.setRequestHandler('elicitation/create', answerElicitation);
  client.setRequestHandler('roots/list', answerRoots);
  client.setRequestHandler('sampling/createMessage', answerSampling);
  return client;
}

const Transport = plan.era === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
const { client, transport } = await connect(plan, agent, Transport, UnauthorizedError);
await carryOut(client, client.getNegotiatedProtocolVersion());
await transport.terminateSession?.();
await client.close();
