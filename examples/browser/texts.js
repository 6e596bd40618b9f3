// The texts for the errors of the gateway. They are chosen by the reason of an error and by what is wrong with each
// parameter, which are stable (docs/reference/errors.md). Errors without a text here show their description.

const again = "Try again in a moment.";
const reasons = {
  wrong_credentials: "The username or the password is wrong. If you have just signed up, confirm your email address first.",
  email_not_verified: "Confirm your email address first: open the link in our email.",
  account_suspended: "This account is suspended.",
  scope_missing: "You are not allowed to do this.",
  too_many_requests: "That was too often.",
  too_many_wrong_passwords: "Too many wrong passwords.",
  overloaded: `The service is busy. ${again}`,
  database_unavailable: `The service is not available. ${again}`,
  keys_not_loaded: `The service is starting. ${again}`,
  took_too_long: `That took too long. ${again}`,
  internal_error: `Something went wrong on our side. ${again}`,
};

const anyField = {
  missing: "This is missing.",
  required: "This is needed.",
  empty: "This is empty.",
  too_long: "This is too long.",
  malformed: "This does not look right.",
  unchanged: "This is what it was before.",
};
const fields = {
  username: {
    malformed: "Use letters (a-z), digits, dots, hyphens and underscores; begin with a letter or a digit.",
    taken: "This username is taken. Choose another one.",
  },
  email: { malformed: "This is not an email address.", taken: "This address has an account already." },
  password: {
    required: "Enter the password that you chose when you signed up.",
    wrong: "This is not the password that you chose when you signed up.",
    too_short: "Use 8 characters or more.",
    too_common: "Many people use this password. Choose another one.",
    too_guessable: "Do not use your name, your email address or the name of the service.",
    unchanged: "This is your current password. Choose another one.",
  },
  old_password: { wrong: "This is not your current password." },
  code: { expired_or_used: "This code is wrong, has expired or was used before. Get a new one below." },
};

// explain returns what to show: `beside` has a text for each parameter that is wrong; `whole` is about the request. If
// one of the parameters has no text here, `whole` is the description of the error, which names them all.
export function explain(error) {
  const beside = {};
  let untold = false;
  for (const [name, wrong] of Object.entries(error.fields)) {
    const text = fields[name]?.[wrong] ?? anyField[wrong];
    if (text) beside[name] = text;
    else untold = true;
  }
  const whole = untold || !Object.keys(beside).length ? (reasons[error.reason] ?? error.message) : "";
  return { beside, whole };
}
