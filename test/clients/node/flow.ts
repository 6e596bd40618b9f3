// Drives the whole flow with openapi-fetch and the types of openapi-typescript. It
// has to compile, too: each body and reply is of the type that the document says.
//
//   node build/flow.js http://localhost:8080 TRUSTED_CALLER_KEY
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [baseUrl, key] = process.argv.slice(2) as [string, string];
const gateway = createClient<paths>({ baseUrl });
const trusted = { header: { "X-Caller-Key": key } };
const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

type Failure = components["schemas"]["Error"];

// done returns what came back, if that is no error.
async function done<T>(call: Promise<{ data?: T; error?: Failure; response: Response }>): Promise<T> {
  const { data, error, response } = await call;
  assert.equal(error, undefined, `${response.url}: ${JSON.stringify(error)}`);
  assert.ok(response.ok);
  return data as T;
}

async function refused(call: Promise<{ error?: Failure }>, reason: components["schemas"]["Reason"]): Promise<Failure> {
  const { error } = await call;
  assert.equal(error?.reason, reason);
  return error!;
}

const name = "typescript";
let email = `${name}@example.com`;
const password = "correct horse battery staple";

const signUp = { username: name, email, first_name: "Ada", last_name: "Lovelace", password };
const kept = await done(gateway.POST("/users", { params: trusted, body: signUp }));
assert.ok("id" in kept);
const short = await refused(gateway.POST("/users", { params: trusted, body: { ...signUp, password: "short" } }), "invalid_fields");
assert.equal(short.fields?.password, "too_short");
await refused(gateway.POST("/tokens/signin", { body: { username: name, password } }), "email_not_verified");
const again = await done(gateway.POST("/users/verification-code", { params: trusted, body: { email } }));
assert.ok("code" in again);
const first = await done(gateway.POST("/users/verify-user", { body: { code: again.code as string } }));
await refused(gateway.POST("/users/verify-user", { body: { code: again.code as string } }), "code_expired_or_used");

let tokens = await done(gateway.POST("/tokens/signin", { body: { username: email, password } }));
const profile = await done(gateway.GET("/users", { headers: bearer(tokens.access_token) }));
assert.equal(profile.username, name);
assert.equal(profile.is_verified, true);
const renamed = await done(gateway.PUT("/users", { headers: bearer(tokens.access_token), body: { first_name: "Augusta Ada" } }));
assert.equal(renamed.name, "Augusta Ada Lovelace");

const { sessions } = await done(gateway.GET("/users/sessions", { headers: bearer(tokens.access_token) }));
assert.deepEqual(sessions.map((s) => s.current).sort(), [false, true]); // those of one second may come in any order
const other = { params: { path: { id: sessions.find((s) => !s.current)!.id } }, headers: bearer(tokens.access_token) };
await done(gateway.DELETE("/users/sessions/{id}", other));
await refused(gateway.DELETE("/users/sessions/{id}", other), "session_not_found");
await refused(gateway.POST("/tokens", { body: { refresh_token: first.refresh_token } }), "session_ended");

// As JSON, as a form, and without a Content-Type, as some generated clients send it
// where the document has more than one.
const form = { bodySerializer: (body: object) => new URLSearchParams(body as Record<string, string>), headers: { "Content-Type": "application/x-www-form-urlencoded" } };
const untyped = { bodySerializer: (body: object) => new Blob([JSON.stringify(body)]), headers: { "Content-Type": null } };
for (const how of [{}, form, untyped]) {
  tokens = await done(gateway.POST("/tokens", { body: { refresh_token: tokens.refresh_token, grant_type: "refresh_token" }, ...how }));
  const known = await done(gateway.POST("/tokens/introspect", { params: trusted, body: { token: tokens.access_token }, ...how }));
  assert.equal(known.active, true);
  assert.equal(known.sub, kept.id);
}

email = `countess-${email}`;
const change = await done(gateway.POST("/users/change-email-request", { params: trusted, headers: bearer(tokens.access_token), body: { email } }));
assert.ok("code" in change);
const changed = await done(gateway.POST("/users/change-email", { headers: bearer(tokens.access_token), body: { code: change.code as string, email } }));
assert.equal(changed.email, email);

const better = "a new and better one";
await done(gateway.POST("/users/change-password", { headers: bearer(tokens.access_token), body: { old_password: password, password: better } }));
const forgot = await done(gateway.POST("/users/forgot-password", { params: trusted, body: { email } }));
assert.ok("code" in forgot);
await done(gateway.POST("/users/change-password", { body: { code: forgot.code as string, password } }));
await refused(gateway.GET("/users", { headers: bearer(tokens.access_token) }), "session_ended");

for (const how of [{}, form, untyped]) {
  const { refresh_token } = await done(gateway.POST("/tokens/signin", { body: { username: name, password } }));
  await done(gateway.DELETE("/tokens", { body: { refresh_token }, ...how }));
  assert.deepEqual(await done(gateway.POST("/tokens/introspect", { params: trusted, body: { token: refresh_token } })), { active: false });
}

for (const how of [{}, form, untyped]) {
  const { access_token, refresh_token } = await done(gateway.POST("/tokens/signin", { body: { username: name, password } }));
  await done(gateway.POST("/tokens/revoke", { body: { token: access_token }, ...how }));
  await refused(gateway.POST("/tokens", { body: { refresh_token } }), "session_ended");
}

const metadata = await done(gateway.GET("/.well-known/openid-configuration"));
assert.equal(metadata.issuer, baseUrl);
assert.deepEqual(await done(gateway.GET("/.well-known/oauth-authorization-server")), metadata);
const all = await done(gateway.GET("/tokens/keys"));
assert.match(all.access_token.keys[0]!.pem, /^-----BEGIN PUBLIC KEY-----\n/);
const set = await gateway.GET("/.well-known/jwks.json");
assert.deepEqual(set.data?.keys.map((k) => k.kid), all.access_token.keys.map((k) => k.kid));
const same = await gateway.GET("/.well-known/jwks.json", { params: { header: { "If-None-Match": set.response.headers.get("ETag")! } } });
assert.equal(same.response.status, 304);
assert.equal((await done(gateway.GET("/openapi.json"))).openapi, "3.1.0");
assert.match(await done(gateway.GET("/docs", { parseAs: "text" })), /<html/);

tokens = await done(gateway.POST("/tokens/signin", { body: { username: name, password } }));
await done(gateway.DELETE("/users", { headers: bearer(tokens.access_token) }));
await refused(gateway.POST("/tokens/signin", { body: { username: name, password } }), "wrong_credentials");
