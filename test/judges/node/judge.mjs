// The loop of every judge: a line of standard input is a token, a line of standard
// output is the verdict. verify returns the subject, or throws.
import { createInterface } from "node:readline";

export const { ISSUER: issuer, AUDIENCE: audience } = process.env;

export async function judge(verify) {
  for await (const token of createInterface({ input: process.stdin })) {
    let verdict;
    try {
      verdict = { subject: await verify(token) };
    } catch (error) {
      verdict = { error: `${error.code ?? error.name}: ${error.message}` };
    }
    console.log(JSON.stringify(verdict));
  }
}
