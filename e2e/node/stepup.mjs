// An agent of either TypeScript SDK whose token comes to do too little: it logs in again for more, and goes on.
import { connect } from './login.mjs';
import { plan } from './plan.mjs';

const one = () => Promise.all([import('@modelcontextprotocol/sdk/client/auth.js'), import('@modelcontextprotocol/sdk/client/index.js'),
  import('@modelcontextprotocol/sdk/client/streamableHttp.js')]).then((parts) => Object.assign({}, ...parts));
const sdk = await (plan.sdk === 1 ? one() : import('@modelcontextprotocol/client'));
const agent = () => new sdk.Client({ name: 'stepup', version: '1' }, plan.sdk === 1 ? {} : { versionNegotiation: { mode: plan.era } });

const { client, transport, authProvider } = await connect(plan, agent, sdk.StreamableHTTPClientTransport, sdk.UnauthorizedError);
const report = { listed: (await client.listTools()).tools.map((t) => t.name), steps: [], logins: 0 };
for (const tool of plan.tools) {
  const call = async () => (await client.callTool({ name: tool, arguments: { n: 1 } })).content[0].text;
  try {
    report.steps.push(await call());
  } catch (e) {
    if (!(e instanceof sdk.UnauthorizedError)) throw e;
    // The transport has read the challenge and sent the user to the browser; what came back is the program's to hand in.
    report.logins++;
    await transport.finishAuth(authProvider.answer.get('code'), authProvider.answer.get('iss'));
    report.steps.push(await call());
  }
}
await transport.terminateSession?.();
await client.close();
console.log(JSON.stringify(report));
