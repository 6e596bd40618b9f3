import * as oauth from "oauth4webapi";
import { audience, issuer, judge } from "./judge.mjs";

const options = { [oauth.allowInsecureRequests]: true }; // http
const url = new URL(issuer);
const server = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, options));
// The RFC 8414 document is the same.
await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { ...options, algorithm: "oauth2" }));

await judge(async (token) => {
  const request = new Request("http://resource.example.com/", { headers: { Authorization: `Bearer ${token}` } });
  // This library keeps keys for at least a minute, and refetches for an unknown kid only then, so each verdict uses a
  // copy of the metadata, to which its cache belongs.
  const claims = await oauth.validateJwtAccessToken({ ...server }, request, audience, {
    ...options, signingAlgorithms: ["ES256", "RS256", "Ed25519", "EdDSA"],
  });
  return claims.sub;
});
