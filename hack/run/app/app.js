import { Gateway } from "./gateway.js";
import { describe } from "./useragent.js";

// The links in mails are #verify=CODE, #reset=CODE and #email=CODE. What is behind a # is in no request, so in no
// log and in no Referer; taken out of the address bar at once, it is in no bookmark and in no screenshot either.
function takeLink() {
  const [, view, code] = location.hash.match(/^#(verify|reset|email)=(.+)$/) ?? [];
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  return view && { view, code };
}

const link = takeLink();
const gateway = new Gateway((await (await fetch("config.json")).json()).gateway);

const byID = (id) => document.getElementById(id);
const form = (name) => document.forms.namedItem(name);

// say tells what happened, or what went wrong, to eyes and to screen readers.
function say(text, isError = false) {
  byID("status").textContent = isError ? "" : text;
  byID("error").textContent = isError ? text : "";
}

function show(view, text = "") {
  say(text);
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  byID(view).querySelector("h1").focus();
}

// wait says how long, and lets the button be pressed again only then: whoever tries sooner waits longer.
function wait(button, text, seconds) {
  button.disabled = seconds > 0;
  // By now they may look at something else.
  if (button.checkVisibility()) say(seconds > 0 ? `${text} Try again in ${seconds} s.` : "", true);
  if (seconds <= 0) return;
  setTimeout(wait, 1000, button, text, seconds - 1);
}

async function attempt(button, action) {
  button.disabled = true;
  say("");
  try {
    await action();
  } catch (error) {
    // What has no status is no answer of the gateway, but a mistake of ours.
    if (error.status === undefined) throw error;
    say(error.message, true);
    if (error.retryAfter > 0) return wait(button, error.message, error.retryAfter);
  }
  button.disabled = false;
}

// Data comes into the page as text, and never as markup.
function onSubmit(name, action, { keep = false } = {}) {
  form(name).addEventListener("submit", (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    attempt(event.submitter ?? event.target.querySelector("button"), async () => {
      await action(values);
      if (!keep) event.target.reset(); // a password does not stay in the page
    });
  });
}

function follow({ view, code }) {
  if (view === "email" && !gateway.signedIn) {
    // The code shows that the address is theirs; whose account it is, only a sign-in does.
    show("sign-in", "Sign in to confirm your new address.");
  } else {
    show(view);
  }
  form(view).elements.namedItem("code").value = code;
}

async function showAccount(text = "") {
  const [profile, sessions] = await Promise.all([gateway.profile(), gateway.sessions()]);
  for (const field of ["username", "name", "email"]) byID(`profile-${field}`).textContent = profile[field];
  for (const field of ["username", "first_name", "last_name"]) form("profile").elements.namedItem(field).value = profile[field];
  form("password").elements.namedItem("username").value = profile.username; // for password managers
  if (!profile.is_verified) byID("profile-email").append(" (not confirmed yet)");
  byID("sessions").replaceChildren(...sessions.map(sessionItem));
  show("account", text);
}

function sessionItem(session) {
  const item = document.createElement("li");
  const name = describe(session.user_agent);
  const since = document.createElement("small");
  since.textContent = `Signed in ${new Date(session.created_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
  const text = document.createElement("div");
  text.append(name, since);
  item.append(text);
  if (session.current) {
    const here = document.createElement("span");
    here.className = "here";
    here.textContent = "This device";
    item.append(here);
    return item;
  }
  const end = document.createElement("button");
  end.type = "button";
  end.className = "secondary";
  end.textContent = "Sign out";
  end.setAttribute("aria-label", `Sign out ${name}, ${since.textContent}`);
  end.addEventListener("click", () =>
    attempt(end, async () => {
      await gateway.endSession(session.id);
      await showAccount(`${name} is signed out.`);
    }),
  );
  item.append(end);
  return item;
}

onSubmit("sign-up", async (person) => {
  await gateway.signUp(person);
  form("resend").elements.namedItem("email").value = person.email;
  // The answer is the same whether or not that address has an account already; so is what we say.
  show("mailbox", `We have sent an email to ${person.email}.`);
});

onSubmit("resend", async ({ email }) => {
  await gateway.requestVerification(email);
  say(`If ${email} is waiting for confirmation, we have sent a new email. Only its code works now.`);
});

// The gateway asks for one of these where the code alone does not say enough; the code stays valid.
function ask(name, text) {
  const input = form("verify").elements.namedItem(name);
  input.closest("label").hidden = false;
  input.required = true;
  say(text, true);
  input.focus();
}

function askNothing() {
  for (const name of ["password", "username"]) {
    const input = form("verify").elements.namedItem(name);
    input.closest("label").hidden = true;
    input.required = false;
  }
}

// Confirming takes a click: programs that scan mail open links, and would use the code up.
onSubmit("verify", async (values) => {
  try {
    await gateway.verify(values);
  } catch (error) {
    if (error.reason === "password_required") return ask("password", "Enter the password that you chose when you signed up.");
    if (error.reason === "username_taken") return ask("username", "Someone else has your username by now. Choose another one.");
    throw error;
  }
  askNothing();
  form("verify").reset();
  await showAccount("Your email address is confirmed. You are signed in.");
}, { keep: true });

onSubmit("sign-in", async ({ username, password }) => {
  await gateway.signIn(username, password);
  if (form("email").elements.namedItem("code").value) show("email");
  else await showAccount();
});

onSubmit("forgot", async ({ email }) => {
  await gateway.requestRecovery(email);
  show("reset", `If ${email} has an account, we have sent an email. Open its link, or enter its code here.`);
});

onSubmit("reset", async ({ code, password }) => {
  await gateway.resetPassword(code, password);
  show("sign-in", "Your password is changed. You are signed out everywhere; sign in with the new password.");
});

onSubmit("request-email", async ({ email }) => {
  await gateway.requestEmailChange(email);
  form("email").elements.namedItem("email").value = email;
  show("email", `We have sent an email to ${email}. Open its link, or enter its code here.`);
});

onSubmit("email", async ({ code, email }) => {
  await gateway.changeEmail(code, email);
  await showAccount("Your email address is changed.");
});

onSubmit("profile", async (changes) => {
  await gateway.updateProfile(changes);
  await showAccount("Your profile is saved.");
}, { keep: true });

onSubmit("password", async ({ old_password, password }) => {
  await gateway.changePassword(old_password, password);
  await showAccount("Your password is changed. Your other devices are signed out.");
});

onSubmit("delete", async ({ username }) => {
  if (username.trim().toLowerCase() !== byID("profile-username").textContent.toLowerCase()) {
    return say("That is not your username. Nothing was deleted.", true);
  }
  await gateway.deleteAccount();
  show("sign-in", "Your account is deleted.");
});

byID("sign-out").addEventListener("click", (event) =>
  attempt(event.target, async () => {
    await gateway.signOut();
    show("sign-in", "You are signed out.");
  }),
);

for (const button of document.querySelectorAll("button[data-show]")) {
  button.addEventListener("click", () => show(button.dataset.show));
}
byID("reload").addEventListener("click", (event) => attempt(event.target, () => showAccount()));
byID("back").addEventListener("click", (event) => attempt(event.target, () => showAccount()));

// Said last, so that it stands whatever the call that found out says.
gateway.addEventListener("ended", () => setTimeout(show, 0, "sign-in", "Your session has ended. Sign in again."));

// A link may be opened in this very tab.
addEventListener("hashchange", () => {
  const opened = takeLink();
  if (opened) follow(opened);
});

async function start() {
  await gateway.resume();
  if (link) follow(link);
  else if (gateway.signedIn) await showAccount();
  else show("sign-in");
}

attempt(byID("retry"), start);
byID("retry").addEventListener("click", (event) => attempt(event.target, start));
