// The client of Auth Gateway: the calls that a page needs, and the handling of its tokens. It does not depend on the
// page; copy it as it is.

// Storage of the tokens: the access token is only in this module's memory. The refresh token is in sessionStorage,
// so that a reload does not sign people out; it belongs to one tab, and is removed when the tab is closed.
//
// Neither is safe from a foreign script that runs in the page (XSS): it can read both, or call the API from here. No
// place in a browser is safe from that, not even a cookie that scripts cannot read. Prevent such scripts (a strict
// Content-Security-Policy, no markup made of data, few dependencies), and a stolen token is worth little: access
// tokens live for minutes, refresh tokens are replaced at each use, and the session ends when two clients use one. If
// that is not enough, keep the tokens in a backend that gives the browser an HttpOnly cookie (RFC 6265). localStorage
// would share a session among tabs, and leave it behind on a computer that other people use.
const kept = "auth-gateway";

// Tokens are renewed this long before they expire, so that they do not expire on their way.
const margin = 30_000;

const timeout = 30_000;

// GatewayError is an error of the API, or of the way to it (status 0). Decide by `reason` and `fields`; the message is
// the API's error_description, for people and in English.
export class GatewayError extends Error {
  constructor(status, code, description, retryAfter = 0, reason = "", fields = {}) {
    super(description);
    this.status = status; // 0: no answer
    this.code = code; // the API's error_code
    this.reason = reason; // the cause; see docs/reference/errors.md
    this.fields = fields; // the parameters that are wrong, and what is wrong with each
    this.retryAfter = retryAfter; // in seconds, with 429 and 503
  }
}

export class Gateway extends EventTarget {
  #base;
  #tab = null; // names this tab's session for the lock
  #access = null;
  #renewAt = 0;
  #renewal = null;

  constructor(base) {
    super();
    this.#base = base;
  }

  // signedIn reports whether this tab has a session. If the session has ended elsewhere, the next call finds out, and
  // the event "ended" is dispatched.
  get signedIn() {
    return this.#kept() !== null;
  }

  // resume takes up the session that this tab had before it was reloaded.
  async resume() {
    const session = this.#kept();
    if (!session) return;
    // A duplicated tab has a copy of the sessionStorage. Two tabs that renew one session look like its owner and a
    // thief, and the gateway ends it; so the copy forgets it.
    if (!(await own(session.tab))) {
      sessionStorage.removeItem(kept);
      return;
    }
    this.#tab = session.tab;
    await this.#renew();
  }

  // signUp takes email, password and what else the gateway requires (SIGNUP_REQUIRED): by default username, first_name
  // and last_name.
  signUp(person) {
    return this.#send("POST", "/users", tidy(person));
  }

  // verify needs the password if several sign-ups wait for the address (reason password_required), and another
  // username if the first one has been taken meanwhile (reason username_taken). The code holds until it succeeds.
  async verify({ code, password, username }) {
    const body = { code: tidyCode(code), password: password || undefined, username: username?.trim() || undefined };
    await this.#keep(await this.#send("POST", "/users/verify-user", body));
  }

  requestVerification(email) {
    return this.#send("POST", "/users/verification-code", tidy({ email }));
  }

  async signIn(username, password) {
    await this.#keep(await this.#send("POST", "/tokens/signin", tidy({ username, password })));
  }

  // signOut forgets the session here, even if the gateway cannot be reached.
  async signOut() {
    await this.#renewal?.catch(() => {});
    const session = this.#kept();
    this.#forget();
    if (session) await this.#send("DELETE", "/tokens", { refresh_token: session.refresh });
  }

  requestRecovery(email) {
    return this.#send("POST", "/users/forgot-password", tidy({ email }));
  }

  // resetPassword ends every session of the account.
  async resetPassword(code, password) {
    await this.#send("POST", "/users/change-password", { code: tidyCode(code), password });
    this.#forget();
  }

  profile() {
    return this.#authorized("GET", "/users");
  }

  // updateProfile changes any of username, first_name and last_name. An empty one that is not required is removed.
  updateProfile(changes) {
    return this.#authorized("PUT", "/users", tidy(changes));
  }

  // changePassword ends every other session of the account.
  changePassword(oldPassword, password) {
    return this.#authorized("POST", "/users/change-password", { old_password: oldPassword, password });
  }

  async deleteAccount() {
    await this.#authorized("DELETE", "/users");
    this.#forget();
  }

  // accessToken returns a token that is valid for at least half a minute (or half of its lifetime, if that is less),
  // for a call to an API of your own.
  async accessToken() {
    if (!this.#access || Date.now() >= this.#renewAt) await this.#renew();
    return this.#access;
  }

  // fetch is the browser's fetch with the access token, for an API of your own that verifies it. Call only URLs that
  // you trust: the server that gets the request can use the token.
  async fetch(url, options) {
    const request = new Request(url, options);
    const call = (token) => {
      const copy = request.clone();
      copy.headers.set("Authorization", `Bearer ${token}`);
      return fetch(copy);
    };
    const response = await call(await this.accessToken());
    if (response.status !== 401) return response;
    await this.#renew();
    return call(this.#access);
  }

  async sessions() {
    return (await this.#authorized("GET", "/users/sessions")).sessions;
  }

  endSession(id) {
    return this.#authorized("DELETE", `/users/sessions/${encodeURIComponent(id)}`);
  }

  requestEmailChange(email) {
    return this.#authorized("POST", "/users/change-email-request", tidy({ email }));
  }

  changeEmail(code, email) {
    return this.#authorized("POST", "/users/change-email", tidy({ code: tidyCode(code), email }));
  }

  async #authorized(method, path, body) {
    try {
      return await this.#send(method, path, body, await this.accessToken());
    } catch (error) {
      if (error.status !== 401) throw error;
    }
    // The token was refused: this computer's clock was changed, or the session has ended. Renewing shows which.
    await this.#renew();
    return this.#send(method, path, body, this.#access);
  }

  // One renewal runs at a time, and all calls wait for it. If its reply is lost, the refresh token stays, and the next
  // call presents it again: for a minute the gateway answers with the same successor.
  #renew() {
    this.#renewal ??= this.#renewOnce().finally(() => {
      this.#renewal = null;
    });
    return this.#renewal;
  }

  async #renewOnce() {
    const session = this.#kept();
    if (!session) throw new GatewayError(401, "unauthenticated", "You are not signed in.");
    try {
      await this.#keep(await this.#send("POST", "/tokens", { refresh_token: session.refresh }));
    } catch (error) {
      if (error.status !== 401) throw error;
      this.#forget();
      this.dispatchEvent(new Event("ended"));
      throw new GatewayError(401, "unauthenticated", "Your session has ended. Sign in again.");
    }
  }

  async #keep(tokens) {
    if (!this.#tab) {
      this.#tab = crypto.randomUUID();
      await own(this.#tab);
    }
    this.#access = tokens.access_token;
    const lifetime = tokens.expires_in * 1000;
    this.#renewAt = Date.now() + lifetime - Math.min(margin, lifetime / 2);
    // Keep the refresh token of the reply, whether or not it is a new one.
    sessionStorage.setItem(kept, JSON.stringify({ tab: this.#tab, refresh: tokens.refresh_token }));
  }

  #kept() {
    return JSON.parse(sessionStorage.getItem(kept));
  }

  #forget() {
    this.#access = null;
    sessionStorage.removeItem(kept);
  }

  async #send(method, path, body, access) {
    const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (access) headers["Authorization"] = `Bearer ${access}`;
    let response, reply;
    try {
      response = await fetch(this.#base + path, {
        method,
        headers,
        body: body && JSON.stringify(body),
        credentials: "omit", // there are no cookies
        signal: AbortSignal.timeout(timeout),
      });
      if (response.status !== 204) reply = await response.json();
    } catch {
      // CORS_ALLOWED_ORIGINS without this page's origin ends here too; the browser's console says so.
      throw new GatewayError(0, "unreachable", "The service cannot be reached. Try again.");
    }
    if (response.ok) return reply;
    const { error_code, error_description, reason, fields } = reply;
    throw new GatewayError(response.status, error_code, error_description, Number(response.headers.get("Retry-After")), reason, fields);
  }
}

// tidy takes away the spaces around what people paste. Every character of a password counts.
function tidy(values) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, /password$/.test(name) ? value : value?.trim()]));
}

// tidyCode takes a code as people copy it from a mail: in groups, with spaces, in lower case.
function tidyCode(code) {
  return code.replace(/[\s-]/g, "").toUpperCase();
}

// own takes a lock that it holds for as long as the tab lives, and reports whether it got it. A tab that is reloaded
// releases its lock a moment late, so it waits a little.
function own(tab) {
  return new Promise((resolve) => {
    const hold = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`auth-gateway ${tab}`, { signal: AbortSignal.timeout(2000) }, hold).catch(() => resolve(false));
  });
}
