// The browser of the checks: opens pages, and fails a check whose page reports an error or breaks its own policy.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { chromium } from "playwright-core";

export const {
  PLAIN: plain,
  KEYED: keyed,
  PREFIXED: prefixed,
  SCREENSHOTS: screenshots,
  BROWSER: executablePath,
} = process.env;
if (!plain || !keyed || !prefixed || !screenshots || !executablePath) {
  console.error("usage: PLAIN=URL KEYED=URL PREFIXED=URL SCREENSHOTS=FOLDER BROWSER=FILE node check_page.mjs");
  process.exit(2);
}

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const browser = await chromium.launch({ executablePath, args: FLAGS });

/** Runs `body` with a page at `url`. `expected` matches the messages of the console that belong to the check. */
export async function visit({ url = plain, expected = /^$/, ready = true, prepare = () => {}, ...options }, body) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const problems = [];
  const page = await context.newPage();
  page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const isBad = ["error", "warning"].includes(message.type()) && !expected.test(message.text());
    if (isBad) problems.push(`console: ${message.text()}`);
  });
  await context.exposeFunction("reportViolation", (what) => problems.push(`policy: ${what}`));
  await context.addInitScript(() => {
    const report = (event) => window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`);
    document.addEventListener("securitypolicyviolation", report);
  });
  await prepare(page, context);
  await page.goto(url);
  if (ready) await untilText(page, "#cosine", "0.742");
  await body(page, context);
  await context.close();
  assert.deepEqual(problems, []);
}

/** Waits until an element has this text, or matches it. */
export async function untilText(page, selector, wanted) {
  const pattern = wanted instanceof RegExp ? wanted.source : `^${wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`;
  const matches = ([selector, pattern]) => {
    const element = document.querySelector(selector);
    return element !== null && !element.closest("[hidden]") && new RegExp(pattern).test(element.textContent.trim());
  };
  try {
    await page.waitForFunction(matches, [selector, pattern], { timeout: 15_000 });
  } catch (error) {
    const found = await page.evaluate((selector) => document.querySelector(selector)?.textContent, selector);
    throw new Error(`${selector} is ${JSON.stringify(found)}, not ${wanted}`, { cause: error });
  }
}

/** Asserts that axe-core finds nothing. */
export async function assertAccessible(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
  assert.deepEqual(found, []);
}

/** Asserts that nothing scrolls sideways, nothing overlaps, and no word is broken. */
export async function assertLayout(page) {
  const found = await page.evaluate(() => {
    const problems = [];
    const root = document.documentElement;
    if (root.scrollWidth > window.innerWidth) problems.push(`the page is ${root.scrollWidth} px wide`);
    const isSeen = (element) =>
      element.checkVisibility() && !element.closest(".hidden, .skip, .scroll, .strip, pre, svg, .texts.many");
    const name = (element) => `${element.tagName.toLowerCase()} "${element.textContent.trim().slice(0, 30)}"`;
    const texts = "h1, h2, h3, p, button, textarea, summary, dt, dd, label, a, li, select, input, figcaption, svg, pre";
    const leaves = [...document.querySelectorAll(texts)].filter(
      (element) => isSeen(element) && !element.querySelector(texts),
    );
    const boxes = leaves
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 0);
    for (const [index, { element, box }] of boxes.entries()) {
      if (box.left < -1 || box.right > window.innerWidth + 1) problems.push(`${name(element)} leaves the page`);
      for (const other of boxes.slice(index + 1)) {
        const wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        const high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        if (wide > 1 && high > 1) problems.push(`${name(element)} overlaps ${name(other.element)}`);
      }
    }
    const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (!isSeen(node.parentElement) || node.parentElement.closest(".id")) continue;
      for (const { index, 0: word } of node.data.matchAll(/[^\s/-]+/g)) {
        const range = document.createRange();
        range.setStart(node, index);
        range.setEnd(node, index + word.length);
        const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
        if (lines.size > 1) problems.push(`the word ${word} is broken`);
      }
    }
    return problems;
  });
  assert.deepEqual(found, []);
}

/** Saves a picture of the page in the folder of the report. */
export const picture = (page, name, options = {}) =>
  page.screenshot({ path: join(screenshots, `${name}.png`), ...options });
