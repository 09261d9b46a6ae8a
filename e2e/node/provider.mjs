// An authorization server of oidc-provider's: users log in at its pages, clients register themselves or publish who they
// are, tokens are for a resource (RFC 8707). The token exchange (RFC 8693) is ours: oidc-provider leaves that grant to
// whoever runs it.
import { generateKeyPairSync } from 'node:crypto';
import { createLocalJWKSet, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

const { issuer, port, gateway, client, secret, user, servers } = JSON.parse(process.argv[2]);
const exchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessToken = 'urn:ietf:params:oauth:token-type:access_token';

const jwk = { ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), kid: 'key-1', use: 'sig', alg: 'ES256' };
const published = createLocalJWKSet({ keys: [{ ...jwk, d: undefined }] });

const resources = new Map(Object.entries({ [gateway]: { ttl: 300, scope: Object.values(servers).join(' ') } })
  .concat(Object.entries(servers).map(([uri, scope]) => [uri, { ttl: 60, scope, exchangeOnly: true }])));

function resourceServer(uri) {
  const { scope, ttl } = resources.get(uri);
  return { audience: uri, scope, accessTokenFormat: 'jwt', accessTokenTTL: ttl, jwt: { sign: { alg: 'ES256' } } };
}

const provider = new Provider(issuer, {
  jwks: { keys: [jwk] },
  scopes: ['openid'],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  enabledJWA: { idTokenSigningAlgValues: ['ES256'], dPoPSigningAlgValues: ['ES256'] },
  cookies: { keys: [crypto.randomUUID()] },
  clients: [{ client_id: client, client_secret: secret, grant_types: [exchange], redirect_uris: [], response_types: [] }],
  findAccount: (_, id) => id === user && { accountId: id, claims: () => ({ sub: id }) },
  // It fetches nothing from special-use addresses by itself, and everything here is on loopback.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(ctx, uri) {
        if (!resources.has(uri) || resources.get(uri).exchangeOnly) throw new errors.InvalidTarget();
        return resourceServer(uri);
      },
      useGrantedResource: () => true,
    },
  },
  extraTokenClaims: (ctx) => ctx.act && { act: ctx.act },
});

// subject verifies the token that is to be exchanged: ours, and meant for the client that asks.
async function subject(token) {
  try {
    const { payload } = await jwtVerify(token, published, { issuer, audience: gateway, typ: 'at+jwt' });
    return payload;
  } catch {
    throw new errors.InvalidRequest('the subject token is not one of ours for you');
  }
}

const words = (text) => (text ?? '').split(' ').filter(Boolean);

// swap is the grant: the token becomes one for one resource, with no scope that it does not have, and no longer a life.
async function swap(ctx) {
  const { params, client } = ctx.oidc;
  if (params.subject_token_type !== accessToken) throw new errors.InvalidRequest('subject_token_type');
  const from = await subject(params.subject_token);
  const uri = params.resource;
  if (typeof uri !== 'string' || !resources.get(uri)?.exchangeOnly) throw new errors.InvalidTarget();
  const server = resourceServer(uri);
  const scopes = words(params.scope);
  for (const scope of scopes) {
    if (!words(from.scope).includes(scope) || !words(server.scope).includes(scope)) throw new errors.InvalidScope('not yours', scope);
  }
  const left = from.exp - Math.floor(Date.now() / 1000);
  const asked = /^[1-9][0-9]{0,5}$/.test(params.requested_expires_in) ? Number(params.requested_expires_in) : server.accessTokenTTL;
  ctx.act = { sub: client.clientId, act: from.act ?? { sub: from.client_id } };
  const token = new provider.AccessToken({
    client, accountId: from.sub, gty: 'token_exchange', scope: scopes.join(' '), expiresIn: Math.min(left, asked, server.accessTokenTTL),
  });
  token.resourceServer = new provider.ResourceServer(uri, server);
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: accessToken,
    token_type: 'Bearer',
    expires_in: token.expiration,
    scope: token.scope,
  };
}

provider.registerGrantType(exchange, swap, [
  'subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'resource', 'scope', 'requested_expires_in',
], ['audience', 'resource']);

// An agent that knows of no scope yet asks for none; oidc-provider then grants nothing at all. RFC 6749 §3.3 lets a server
// have a default.
provider.use((ctx, next) => {
  if (ctx.path === '/auth' && !ctx.query.scope) ctx.query = { ...ctx.query, scope: 'openid' };
  return next();
});

provider.on('server_error', (_, error) => console.error(error));
provider.listen(port, '127.0.0.1', () => console.log('ready'));
