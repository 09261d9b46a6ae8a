// What an agent is to do, from the command line, and the report of what came of it, for either SDK.
export const plan = JSON.parse(process.argv[2]);

const asked = [];

export function answerElicitation({ params }) {
  asked.push(params.message);
  return { action: 'accept', content: plan.answers };
}

export function answerSampling({ params }) {
  asked.push([params.messages[0].content].flat()[0].text);
  return { role: 'assistant', model: 'none', content: { type: 'text', text: 'as you say' } };
}

export const answerRoots = () => ({ roots: [{ uri: 'file:///home/wile', name: 'home' }] });

// carryOut looks at every list, takes each step, and prints the report, one line of JSON.
export async function carryOut(client, version) {
  const report = {
    version,
    tools: (await client.listTools()).tools.map((t) => t.name),
    prompts: (await client.listPrompts()).prompts.map((p) => p.name),
    resources: (await client.listResources()).resources.map((r) => r.uri),
    templates: (await client.listResourceTemplates()).resourceTemplates.map((t) => t.uriTemplate),
    asked,
    steps: [],
  };
  for (const step of plan.steps) {
    report.steps.push(await take(client, step).catch((e) => `error ${e.code}`));
  }
  console.log(JSON.stringify(report));
}

const text = (content) => content.map((c) => c.text ?? `[${c.type}]`).join('');

async function take(client, { tool, prompt, resource, complete, arguments: args }) {
  if (tool) {
    const result = await client.callTool({ name: tool, arguments: args });
    return (result.isError ? 'failed: ' : '') + text(result.content);
  }
  if (prompt) return text((await client.getPrompt({ name: prompt, arguments: args })).messages.map((m) => m.content));
  if (resource) return text((await client.readResource({ uri: resource })).contents);
  const [[name, value]] = Object.entries(args);
  const { completion } = await client.complete({ ref: { type: 'ref/prompt', name: complete }, argument: { name, value } });
  return completion.values.join(' ');
}
