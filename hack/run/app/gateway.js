// The client of Auth Gateway: what a page needs of its API, and the life of its tokens. It knows nothing of the
// page that it is in; copy it as it is.

// Where the tokens are. The access token is in this module's memory alone. The refresh token is in sessionStorage,
// so that a reload does not sign people out; it belongs to one tab, and goes when that is closed.
//
// Neither is safe from a script that somebody else gets to run in the page (XSS): that can read both, or simply
// call the API from here. No place in a browser is, a cookie that scripts cannot read included. What helps is that
// no such script runs (a strict Content-Security-Policy, no markup made of data, few dependencies), and that a
// stolen token is worth little: access tokens live for minutes, refresh tokens are replaced at each use, and the
// session ends when one is used by two. Who needs more keeps the tokens in a backend, and gives the browser a
// cookie (RFC 6265, HttpOnly) for that. localStorage would share a session among tabs, and leave it behind on a
// computer that others use.
const kept = "auth-gateway";

// Renewed this long before its end, so that it does not expire on its way.
const margin = 30_000;

const timeout = 30_000;

// What went wrong, in words for the person: the API's error_description.
export class GatewayError extends Error {
  constructor(status, code, description, retryAfter = 0, reason = "", fields = {}) {
    super(description);
    this.status = status; // 0: there was no answer
    this.code = code; // the API's error_code
    this.reason = reason; // stable, one for each cause: what programs decide by
    this.fields = fields; // what is wrong with each parameter
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

  // Whether there is a session; it may have ended elsewhere, which the next call tells by the event "ended".
  get signedIn() {
    return this.#kept() !== null;
  }

  // resume takes up the session that this tab had before it was reloaded.
  async resume() {
    const session = this.#kept();
    if (!session) return;
    // To duplicate a tab copies its sessionStorage. Two that renew one session look like its owner and a thief, and
    // the gateway ends it; so the copy forgets it.
    if (!(await own(session.tab))) {
      sessionStorage.removeItem(kept);
      return;
    }
    this.#tab = session.tab;
    await this.#renew();
  }

  signUp(person) {
    return this.#send("POST", "/users", person);
  }

  // verify needs the password if several sign-ups wait for the address (reason password_required), and another
  // username if the one that was chosen has been taken meanwhile (reason username_taken).
  async verify({ code, password, username }) {
    const body = { code: tidyCode(code), password: password || undefined, username: username || undefined };
    await this.#keep(await this.#send("POST", "/users/verify-user", body));
  }

  requestVerification(email) {
    return this.#send("POST", "/users/verification-code", { email });
  }

  async signIn(username, password) {
    await this.#keep(await this.#send("POST", "/tokens/signin", { username: username.trim(), password }));
  }

  // signOut forgets the session here, also where the gateway cannot be told.
  async signOut() {
    await this.#renewal?.catch(() => {});
    const session = this.#kept();
    this.#forget();
    if (session) await this.#send("DELETE", "/tokens", { refresh_token: session.refresh });
  }

  requestRecovery(email) {
    return this.#send("POST", "/users/forgot-password", { email });
  }

  // resetPassword ends every session of the account.
  async resetPassword(code, password) {
    await this.#send("POST", "/users/change-password", { code: tidyCode(code), password });
    this.#forget();
  }

  profile() {
    return this.#authorized("GET", "/users");
  }

  // updateProfile changes any of username, first_name and last_name.
  updateProfile(changes) {
    return this.#authorized("PUT", "/users", changes);
  }

  // changePassword ends every other session of the account.
  changePassword(oldPassword, password) {
    return this.#authorized("POST", "/users/change-password", { old_password: oldPassword, password });
  }

  async deleteAccount() {
    await this.#authorized("DELETE", "/users");
    this.#forget();
  }

  // accessToken returns one that is valid for half a minute or more, for a call to an API of your own.
  async accessToken() {
    if (!this.#access || Date.now() >= this.#renewAt) await this.#renew();
    return this.#access;
  }

  // fetch is the browser's fetch with the access token, for an API of your own that verifies it. Use it for URLs
  // that you trust: whoever gets the request can use the token.
  async fetch(url, options = {}) {
    const call = (token) => {
      const headers = new Headers(options.headers);
      headers.set("Authorization", `Bearer ${token}`);
      return fetch(url, { ...options, headers });
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
    return this.#authorized("POST", "/users/change-email-request", { email });
  }

  changeEmail(code, email) {
    return this.#authorized("POST", "/users/change-email", { code: tidyCode(code), email });
  }

  async #authorized(method, path, body) {
    try {
      return await this.#send(method, path, body, await this.accessToken());
    } catch (error) {
      if (error.status !== 401) throw error;
    }
    // It did not hold: this computer's clock was set, or the session has ended. Renewing tells which.
    await this.#renew();
    return this.#send(method, path, body, this.#access);
  }

  // One renewal at a time, however many calls wait for it. Where its reply is lost, the refresh token stays, and the
  // next call presents it again: for a minute the gateway answers that with the same successor.
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
    // The reply's refresh token is the one to hold from now on, whether it is a new one or not.
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
      // Also where CORS_ALLOWED_ORIGINS does not have this page's origin; the browser's console tells.
      throw new GatewayError(0, "unreachable", "The service cannot be reached. Try again.");
    }
    if (response.ok) return reply;
    throw new GatewayError(response.status, reply.error_code, reply.error_description, Number(response.headers.get("Retry-After")), reply.reason, reply.fields);
  }
}

// tidyCode takes a code as people copy it from a mail: in groups, with spaces, in small letters.
function tidyCode(code) {
  return code.replace(/[\s-]/g, "").toUpperCase();
}

// own holds a lock for as long as the tab lives, and tells whether it got it. A tab that is reloaded gives its lock
// up a moment late, so we wait a little.
function own(tab) {
  return new Promise((resolve) => {
    const hold = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`auth-gateway ${tab}`, { signal: AbortSignal.timeout(2000) }, hold).catch(() => resolve(false));
  });
}
