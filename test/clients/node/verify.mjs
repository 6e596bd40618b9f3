// Finds the keys of an issuer by discovery, and verifies an access token as an API
// would: with jose, and with oauth4webapi's check of RFC 9068.
//
//   node verify.mjs http://localhost:8080 ACCESS_TOKEN
import assert from "node:assert/strict";
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from "jose";
import * as oauth from "oauth4webapi";

const [url, token] = process.argv.slice(2);
const insecure = { [oauth.allowInsecureRequests]: true }; // http
const { alg } = decodeProtectedHeader(token);

const servers = [];
for (const algorithm of ["oidc", "oauth2"]) {
  const reply = await oauth.discoveryRequest(new URL(url), { algorithm, ...insecure });
  servers.push(await oauth.processDiscoveryResponse(new URL(url), reply));
}
assert.deepEqual(servers[0], servers[1]);
const [server] = servers;

const request = (bearer) => new Request("https://shop.example.com/orders", { headers: { Authorization: `Bearer ${bearer}` } });
const claims = await oauth.validateJwtAccessToken(server, request(token), url, { ...insecure, signingAlgorithms: [alg] });
assert.equal(claims.client_id, "shop");
assert.equal(claims.iss, url);
assert.ok(Array.isArray(claims.aud));
await assert.rejects(oauth.validateJwtAccessToken(server, request(token), "https://another.example.com", { ...insecure, signingAlgorithms: [alg] }));
await assert.rejects(oauth.validateJwtAccessToken(server, request(token.slice(0, -8) + "AAAAAAAA"), url, { ...insecure, signingAlgorithms: [alg] }));

const keys = createRemoteJWKSet(new URL(server.jwks_uri));
const { payload } = await jwtVerify(token, keys, { issuer: server.issuer, audience: url, typ: "at+jwt", algorithms: [alg] });
assert.equal(payload.sub, claims.sub);
