// A backend that uses Auth Gateway with EXPOSURE=internal, the default: it signs users up, mails their codes, and
// has a route for signed-in users.
import { createServer } from "node:http";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { createTransport } from "nodemailer";

const { env } = process;
const gateway = env.GATEWAY ?? "http://localhost:8080";
const [smtpHost, smtpPort] = (env.SMTP ?? "localhost:1025").split(":"); // the mailbox of make run
const mailFrom = env.MAIL_FROM ?? "shop@example.com";
const mailer = createTransport({ host: smtpHost, port: Number(smtpPort) });

// cacheMaxAge: a revoked key is refused within a minute; jose's default is ten.
const keys = createRemoteJWKSet(new URL(`${gateway}/.well-known/jwks.json`), { cacheMaxAge: 60_000 });

class Refusal extends Error {
  constructor(status, body, headers = {}) {
    super(body.error_description);
    Object.assign(this, { status, body, headers });
  }
}

// call posts a body to the gateway and returns its reply. Its errors are for people (error_description) and for
// pages (reason, fields), so they are passed on as they are.
async function call(request, path, body) {
  const response = await fetch(gateway + path, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "User-Agent": request.headers["user-agent"] ?? "", // users recognise their sessions by it
      ...(env.TRUSTED_CALLER_KEY && { "X-Caller-Key": env.TRUSTED_CALLER_KEY }),
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  });
  const reply = await response.json();
  if (response.ok) return reply;
  const retryAfter = response.headers.get("Retry-After");
  throw new Refusal(response.status, reply, retryAfter ? { "Retry-After": retryAfter } : {});
}

// user returns the user of a request's access token, without a call to the gateway.
async function user(request, scope) {
  const token = request.headers.authorization?.match(/^Bearer (.+)$/)?.[1];
  const options = { issuer: gateway, audience: gateway, typ: "at+jwt", algorithms: ["ES256", "RS256", "EdDSA"] };
  const verified = token && (await jwtVerify(token, keys, options).catch(() => null));
  if (!verified) throw new Refusal(401, { error_description: "Sign in first." }, { "WWW-Authenticate": "Bearer" });
  if (!verified.payload.scope.split(" ").includes(scope)) throw new Refusal(403, { error_description: "You are not allowed to do this." });
  return verified.payload;
}

const routes = {
  // The code must go only to this address and must not be in the reply: it proves that the user reads the mail.
  "POST /signup": async (request, person) => {
    const { code } = await call(request, "/users", person);
    await mailer.sendMail({
      from: mailFrom,
      to: { name: "", address: person.email }, // one recipient, whatever the address contains
      subject: "Confirm your email address",
      text: `Enter this code to confirm your email address:\n\n${code}\n\nDon't share this code with anyone.\n`,
    });
    return [202, { message: "Check your inbox." }];
  },
  "POST /verify": async (request, body) => [200, await call(request, "/users/verify-user", body)],
  "POST /signin": async (request, body) => [200, await call(request, "/tokens/signin", body)],
  "POST /renew": async (request, body) => [200, await call(request, "/tokens", body)],
  // One of the shop's own routes, for signed-in users.
  "GET /orders": async (request) => {
    const { sub, name } = await user(request, "profile");
    return [200, { user: sub, name, orders: [] }];
  },
};

async function bodyOf(request) {
  if (request.method === "GET") return undefined;
  let text = "";
  for await (const part of request.setEncoding("utf8")) {
    text += part;
    if (text.length > 65536) throw new Refusal(413, { error_description: "The body is too large." }, { Connection: "close" });
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal(400, { error_description: "The body is not JSON." });
  }
}

const server = createServer(async (request, response) => {
  let status, body, headers;
  try {
    const route = routes[`${request.method} ${request.url}`];
    if (!route) throw new Refusal(404, { error_description: "There is nothing here." });
    [status, body] = await route(request, await bodyOf(request));
  } catch (error) {
    if (error instanceof Refusal) ({ status, body, headers } = error);
    else {
      console.error(error);
      [status, body] = [503, { error_description: "Something went wrong. Try again." }];
    }
  }
  response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store", ...headers });
  response.end(JSON.stringify(body));
});

const [host, port] = (env.LISTEN ?? "localhost:3000").split(":");
server.listen(Number(port), host, () => console.log(`listening on http://${host}:${port}`));
