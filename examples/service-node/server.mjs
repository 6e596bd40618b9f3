import { createServer } from "node:http";
import { createRemoteJWKSet, jwtVerify } from "jose";

const issuer = process.argv[2];
const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`), { cacheMaxAge: 60_000 });
createServer(async (request, response) => {
  try {
    const [, token] = request.headers.authorization.match(/^Bearer +(\S+)$/i);
    const { payload } = await jwtVerify(token, keys, { issuer, audience: issuer, typ: "at+jwt" });
    response.end(`hello, ${payload.username}\n`);
  } catch {
    response.writeHead(401, { "WWW-Authenticate": "Bearer" }).end();
  }
}).listen(9000, "localhost");
