// The frame of the npm client checks: command line, Test Anything Protocol, reference vectors.
//
// A script is started as `check_CLIENT.mjs BASE_URL REFERENCE LEAST_COSINE`, registers its checks with `check` and ends with
// `run()`. Each check prints one line; the exit status says whether all passed.

import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";

const [, script, baseURL, referencePath, leastCosine] = process.argv;
if (!leastCosine) {
  console.error(`usage: ${script} BASE_URL REFERENCE LEAST_COSINE`);
  process.exit(2);
}

export { baseURL };
export const apiKey = "any"; // a server without keys accepts every one
export const model = "all-MiniLM-L6-v2";
export const hubId = "sentence-transformers/all-MiniLM-L6-v2";
export const alias = "text-embedding-3-small";
export const dimensions = 384;

// sentence-transformers' own vectors in float32, one text at a time.
const reference = JSON.parse(readFileSync(referencePath, "utf8"));
const vectors = new Map(reference.texts.map((text, index) => [text, reference.vectors[index]]));
const counts = new Map(reference.texts.map((text, index) => [text, reference.token_counts[index]]));

// "" may stand alone but not in a list: OpenAI answers 400 there.
export const texts = reference.texts.filter((text) => text !== "");

const checks = [];

/** Registers an async function as the check called `name`. */
export function check(name, body) {
  checks.push([name, body]);
}

// The address in documentation, in the place of the server's.
const address = "http://127.0.0.1:8080/v1";

/** Registers a check that runs the block for `client` in docs/clients.md, whose `vectors` must be right. */
export function checkGuide(client) {
  check(`the lines of docs/clients.md: ${client}`, async () => {
    const page = readFileSync("docs/clients.md", "utf8");
    const section = page.split(`\n### ${client}\n`)[1] ?? "";
    const block = (section.split("```js\n")[1] ?? "").split("```\n")[0];
    assert.ok(block.includes(address), `there is no block with ${address} for ${client}`);
    // Next to the packages, where Node looks for them.
    const file = new URL(`guide-${process.pid}-${checks.length}.mjs`, import.meta.url);
    writeFileSync(file, `${block.replaceAll(address, baseURL)}\nexport { vectors };\n`);
    try {
      sameVectors((await import(file)).vectors, ["I am so cold", "I feel extremely chilly"]);
    } finally {
      rmSync(file);
    }
  });
}

/** Runs every check in order and exits. */
export async function run() {
  let failed = 0;
  for (const [index, [name, body]] of checks.entries()) {
    try {
      await body();
      console.log(`ok ${index + 1} - ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${index + 1} - ${name}`);
      for (const line of String(error?.stack ?? error).split("\n")) console.log(`# ${line}`);
    }
  }
  console.log(`1..${checks.length}`);
  process.exitCode = failed === 0 ? 0 : 1;
}

/** The vector is sentence-transformers' vector of `text`, of unit length. */
export function sameVector(vector, text) {
  const expected = vectors.get(text);
  assert.equal(vector.length, expected.length);
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const norm = Math.sqrt(dot(vector, vector));
  assert.ok(Math.abs(norm - 1) < 1e-4, `the vector of ${JSON.stringify(text)} has length ${norm}`);
  const cosine = dot(vector, expected) / norm; // the reference has length 1
  // What the precision that the server computes in allows.
  assert.ok(cosine >= Number(leastCosine), `the vector of ${JSON.stringify(text)} has cosine ${cosine} to the reference`);
}

/** One right vector per text, in the order of the texts. */
export function sameVectors(found, expected) {
  assert.equal(found.length, expected.length);
  found.forEach((vector, index) => sameVector(vector, expected[index]));
}

/** The number of tokens that the model reads for these texts, special tokens and the window included. */
export function tokens(list) {
  return list.reduce((sum, text) => sum + counts.get(text), 0);
}
