// Uses /tokens with oauth4webapi, as a client of any OAuth 2.0 server does, and
// verifies the tokens with jose.
//
//   node oauth.mjs http://localhost:8080 TRUSTED_CALLER_KEY
import assert from "node:assert/strict";
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as oauth from "oauth4webapi";

const [url, key] = process.argv.slice(2);
const insecure = { [oauth.allowInsecureRequests]: true }; // http
const server = await oauth.processDiscoveryResponse(new URL(url), await oauth.discoveryRequest(new URL(url), { algorithm: "oauth2", ...insecure }));
const client = { client_id: "application" };

async function call(method, path, body) {
  const reply = await fetch(url + path, { method, headers: { "Content-Type": "application/json", "X-Caller-Key": key }, body: JSON.stringify(body) });
  assert.ok(reply.ok, `${path}: ${reply.status}`);
  return reply.status === 204 ? undefined : reply.json();
}
const { code } = await call("POST", "/users", {
  username: "oauth", email: "oauth@example.com", first_name: "Ada", last_name: "Lovelace", password: "correct horse battery staple",
});
const signedIn = await call("POST", "/users/verify-user", { code });

const refresh = async (token) =>
  oauth.processRefreshTokenResponse(server, client, await oauth.refreshTokenGrantRequest(server, client, oauth.None(), token, insecure));
const introspect = async (token) =>
  oauth.processIntrospectionResponse(server, client, await oauth.introspectionRequest(server, client, oauth.None(), token, {
    ...insecure, headers: { "X-Caller-Key": key }, additionalParameters: { token_type_hint: "access_token" },
  }));
const refused = (promise, error) => assert.rejects(promise, (e) => {
  assert.equal(e.error, error, e);
  return true;
});

const renewed = await refresh(signedIn.refresh_token);
assert.equal(renewed.token_type, "bearer");
const known = await introspect(renewed.access_token);
assert.equal(known.active, true);
assert.equal(known.iss, url);
assert.equal(known.client_id, "auth-gateway");

const keys = createRemoteJWKSet(new URL(server.jwks_uri), { cacheMaxAge: 60_000 });
const checks = { issuer: url, audience: url, typ: "at+jwt", algorithms: ["ES256"] };
const { payload } = await jwtVerify(renewed.access_token, keys, checks);
assert.equal(payload.sub, known.sub);
await assert.rejects(jwtVerify(renewed.refresh_token, keys, checks)); // another key, and another typ

await refused(refresh("a token of somebody else"), "invalid_grant");
await refused(refresh(renewed.access_token), "invalid_grant");
await refused(
  oauth.clientCredentialsGrantRequest(server, client, oauth.None(), {}, insecure).then((reply) => oauth.processClientCredentialsResponse(server, client, reply)),
  "unsupported_grant_type",
);
await refused(
  oauth.introspectionRequest(server, client, oauth.None(), renewed.access_token, insecure).then((reply) => oauth.processIntrospectionResponse(server, client, reply)),
  "invalid_client",
);
const revoke = async (token) => oauth.processRevocationResponse(await oauth.revocationRequest(server, client, oauth.None(), token, insecure));
await revoke("a token of another issuer");
await revoke(renewed.refresh_token);
await revoke(renewed.refresh_token);
await refused(refresh(renewed.refresh_token), "invalid_grant");
assert.deepEqual(await introspect(renewed.access_token), { active: false });
