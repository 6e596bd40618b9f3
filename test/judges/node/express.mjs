// A real Express application with express-jwt and jwks-rsa, called over HTTP.
import express from "express";
import { expressjwt } from "express-jwt";
import { expressJwtSecret } from "jwks-rsa";
import { audience, issuer, judge } from "./judge.mjs";

const { jwks_uri: jwksUri } = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const app = express();
app.use(expressjwt({
  secret: expressJwtSecret({ jwksUri, cache: true, cacheMaxAge: 2_000 }),
  issuer, audience, algorithms: ["RS256", "ES256"],
}));
app.get("/", (request, response) => response.json({ subject: request.auth.sub }));
app.use((error, _request, response, _next) => response.status(error.status ?? 500).json({ error: error.message }));
const listener = app.listen(0, "127.0.0.1");
await new Promise((listening) => listener.once("listening", listening));

await judge(async (token) => {
  const response = await fetch(`http://127.0.0.1:${listener.address().port}/`, { headers: { Authorization: `Bearer ${token}` } });
  const body = await response.json();
  if (response.status !== 200) throw new Error(`${response.status}: ${body.error}`);
  return body.subject;
});
listener.close();
