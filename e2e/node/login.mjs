// How a program logs in: it keeps what it learns, and is its own user at the browser.
class Login {
  redirectUrl = 'http://127.0.0.1:7/callback';
  clientMetadata = {
    client_name: 'agent',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };

  constructor({ user, grants }) {
    this.user = user;
    if (grants) this.clientMetadata.grant_types = grants;
  }
  state() { return (this.sent = crypto.randomUUID()); }
  clientInformation() { return this.client; }
  saveClientInformation(client) { this.client = client; }
  tokens() { return this.saved; }
  saveTokens(tokens) { this.saved = tokens; }
  codeVerifier() { return this.verifier; }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  discoveryState() { return this.discovered; }
  saveDiscoveryState(state) { this.discovered = state; }

  async redirectToAuthorization(url) {
    url.searchParams.set('login_hint', this.user);
    const page = await fetch(url, { redirect: 'manual' });
    this.answer = new URL(page.headers.get('location')).searchParams;
    if (this.answer.get('state') !== this.sent) throw new Error(`logging in: ${this.answer}`);
  }
}

// connect is refused for want of a token, logs in, and connects.
export async function connect(plan, agent, Transport, Unauthorized) {
  const authProvider = new Login(plan);
  const open = () => new Transport(new URL(plan.url), { authProvider });
  const refused = open();
  await agent().connect(refused).then(
    () => { throw new Error('nobody asked for a token'); },
    (e) => { if (!(e instanceof Unauthorized)) throw e; },
  );
  await refused.finishAuth(authProvider.answer.get('code'), authProvider.answer.get('iss'));
  const [client, transport] = [agent(), open()];
  await client.connect(transport);
  return { client, transport, authProvider };
}
