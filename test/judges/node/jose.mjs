import { createRemoteJWKSet, jwtVerify } from "jose";
import { audience, issuer, judge } from "./judge.mjs";

const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri), { cacheMaxAge: 2_000, cooldownDuration: 500 });
const checks = {
  issuer, audience, typ: "at+jwt", algorithms: ["ES256", "RS256", "EdDSA"],
  requiredClaims: ["exp", "iat", "jti", "sub", "client_id"], // RFC 9068 section 2.2
};

await judge(async (token) => (await jwtVerify(token, keys, checks)).payload.sub);
