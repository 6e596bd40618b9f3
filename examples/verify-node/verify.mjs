import { createRemoteJWKSet, jwtVerify } from "jose";

const [issuer, token] = process.argv.slice(2);
// cacheMaxAge: a revoked key is refused within a minute; jose's default is ten.
const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`), { cacheMaxAge: 60_000 });
const { payload } = await jwtVerify(token, keys, { issuer, audience: issuer, typ: "at+jwt", algorithms: ["ES256"] });
console.log("verified:", payload.sub, payload.scope);
