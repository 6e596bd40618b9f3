// A client that discovers the issuer, renews its tokens and revokes them with openid-client.
//
//   ISSUER=… node openid-client.mjs REFRESH_TOKEN
import assert from "node:assert/strict";
import * as client from "openid-client";

const [refreshToken] = process.argv.slice(2);
const config = await client.discovery(new URL(process.env.ISSUER), "application", undefined, client.None(), {
  execute: [client.allowInsecureRequests],
});
const renewed = await client.refreshTokenGrant(config, refreshToken);
assert.ok(renewed.access_token && renewed.refresh_token, "renewed tokens");
assert.equal(renewed.token_type, "bearer");
await client.tokenRevocation(config, renewed.refresh_token, { token_type_hint: "refresh_token" });
await client.tokenRevocation(config, renewed.refresh_token); // a second time
await client.tokenRevocation(config, "a token of another issuer"); // RFC 7009 section 2.2
await assert.rejects(client.refreshTokenGrant(config, renewed.refresh_token), (error) => {
  assert.equal(error.error, "invalid_grant", error);
  return true;
});
