import { Gateway } from "./gateway.js";
import { explain } from "./texts.js";
import { describe } from "./useragent.js";

// The links in mails are #verify=CODE, #reset=CODE and #email=CODE. Browsers send nothing after the #, so the code is in
// no log and in no Referer. It leaves the address bar at once, so it is in no bookmark and in no screenshot either.
function takeLink() {
  const [, view, code] = location.hash.match(/^#(verify|reset|email)=(.+)$/) ?? [];
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  return view && { view, code };
}

const link = takeLink();
const config = await (await fetch("config.json")).json();
const gateway = new Gateway(config.gateway);

const byID = (id) => document.getElementById(id);
const form = (name) => document.forms.namedItem(name);

// Names that the gateway does not require are not asked for at sign-up, and may be empty in the profile.
const required = config.signup_required.split(",").map((name) => name.trim());
for (const name of ["username", "first_name", "last_name"].filter((name) => !required.includes(name))) {
  form("sign-up").elements.namedItem(name).closest("label").hidden = true;
  for (const one of ["sign-up", "profile"]) form(one).elements.namedItem(name).required = false;
}

// say shows what happened or what went wrong, to screen readers too.
function say(text, isError = false) {
  byID("status").textContent = isError ? "" : text;
  byID("error").textContent = isError ? text : "";
}

function show(view, text = "") {
  say(text);
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const one of document.forms) unmark(one);
  for (const label of document.querySelectorAll("[data-on-demand]")) ask(label, false);
  byID(view).querySelector("h1").focus();
}

// wait counts down until the button may be pressed again; trying sooner would make the wait longer.
function wait(button, text, seconds) {
  button.disabled = seconds > 0;
  // The person may look at another part of the page by now.
  if (button.checkVisibility()) say(seconds > 0 ? `${text} Try again in ${seconds} s.` : "", true);
  if (seconds <= 0) return;
  setTimeout(wait, 1000, button, text, seconds - 1);
}

async function attempt(button, action, inputs = {}) {
  button.disabled = true;
  say("");
  try {
    await action();
  } catch (error) {
    // Only a GatewayError has a status; everything else is a fault of this page.
    if (error.status === undefined) throw error;
    const { beside, whole } = explain(error);
    const unplaced = Object.entries(beside).filter(([name, text]) => !mark(inputs[name], text));
    const text = [whole, ...unplaced.map(([, text]) => text)].filter(Boolean).join(" ");
    say(text, true);
    document.querySelector("[aria-invalid]")?.focus();
    if (error.retryAfter > 0) return wait(button, text, error.retryAfter);
  }
  button.disabled = false;
}

// mark shows beside an input what is wrong with it, and reports whether it could.
function mark(input, text) {
  const label = input?.closest("label");
  if (!label) return false;
  if (label.hidden) ask(label, true);
  input.setAttribute("aria-invalid", "true");
  const fault = document.createElement("small");
  fault.className = "fault";
  fault.textContent = text;
  input.after(fault); // in the label, so that screen readers read it with the input
  return true;
}

function unmark(form) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const fault of form.querySelectorAll(".fault")) fault.remove();
}

// ask shows or hides an input that is needed only if the gateway asks for it.
function ask(label, needed) {
  const input = label.querySelector("input");
  label.hidden = !needed;
  input.required = needed;
  input.value = "";
}

// onSubmit runs an action with what is in a form. Data comes into the page as text, and never as markup.
function onSubmit(name, action) {
  form(name).addEventListener("submit", (event) => {
    event.preventDefault();
    unmark(event.target);
    const values = Object.fromEntries(new FormData(event.target));
    const inputs = Object.fromEntries([...event.target.elements].map((input) => [input.name, input]));
    attempt(event.submitter ?? event.target.querySelector("button"), async () => {
      await action(values);
      if (name !== "profile") event.target.reset(); // a password does not stay in the page
    }, inputs);
  });
}

function follow({ view, code }) {
  if (view === "email" && !gateway.signedIn) {
    // The code proves the address; only a sign-in says whose account it is for.
    show("sign-in", "Sign in to confirm your new address.");
  } else {
    show(view);
  }
  form(view).elements.namedItem("code").value = code;
}

let account; // the profile that is shown

async function showAccount(text = "") {
  const [profile, sessions] = await Promise.all([gateway.profile(), gateway.sessions()]);
  account = profile;
  for (const field of ["username", "name", "email"]) {
    const value = byID(`profile-${field}`);
    value.textContent = profile[field];
    value.hidden = value.previousElementSibling.hidden = profile[field] === "";
  }
  for (const field of ["username", "first_name", "last_name"]) form("profile").elements.namedItem(field).value = profile[field];
  form("password").elements.namedItem("username").value = profile.username || profile.email; // for password managers
  if (!profile.is_verified) byID("profile-email").append(" (not confirmed yet)");
  sessions.sort((a, b) => b.current - a.current);
  byID("sessions").replaceChildren(...sessions.map(sessionItem));
  if (text) for (const part of document.querySelectorAll("#account details")) part.open = false;
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

// Confirming takes a click: programs that scan mail open links, and would use up the code.
onSubmit("verify", async (values) => {
  await gateway.verify(values);
  await showAccount("Your email address is confirmed. You are signed in.");
});

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
});

onSubmit("password", async ({ old_password, password }) => {
  await gateway.changePassword(old_password, password);
  await showAccount("Your password is changed. Your other devices are signed out.");
});

onSubmit("delete", async ({ confirmation }) => {
  if (confirmation.trim().toLowerCase() !== account.email.toLowerCase()) {
    return say("That is not your email address. Nothing was deleted.", true);
  }
  await gateway.deleteAccount();
  show("sign-in", "Your account is deleted.");
});

byID("sign-out").addEventListener("click", (event) =>
  attempt(event.target, async () => {
    try {
      await gateway.signOut();
    } catch (error) {
      if (error.status === undefined) throw error;
      return show("sign-in", "You are signed out here, but the service could not be reached: your session there ends later on its own.");
    }
    show("sign-in", "You are signed out.");
  }),
);

for (const button of document.querySelectorAll("button[data-show]")) {
  button.addEventListener("click", () => show(button.dataset.show));
}
byID("reload").addEventListener("click", (event) => attempt(event.target, () => showAccount()));
byID("back").addEventListener("click", (event) =>
  attempt(event.target, async () => {
    await showAccount();
    form("request-email").closest("details").open = true;
  }),
);

// This is shown last, so that the error of the call that found out does not replace it.
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
