// The page at `/` in a browser, as its readers use it. Every check waits for a condition, none for a time.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import test, { after } from "node:test";

import {
  assertAccessible,
  assertLayout,
  browser,
  keyed,
  picture,
  plain,
  prefixed,
  untilText,
  visit,
} from "./browser.mjs";

const SAMPLES = ["I feel extremely chilly", "I am so cold"];
const OTHER = "It is freezing";
const LONG = "The sea is blue and wide. ".repeat(60);
const FAILED_REQUEST = /Failed to load resource/;

after(() => browser.close());

const texts = (page, selector) => page.locator(selector).allTextContents();

/** Puts these texts on the page by its form for lines. */
async function paste(page, lines) {
  await page.getByRole("button", { name: "Paste many lines" }).click();
  await page.getByLabel(/^One text on each line/).fill(lines.join("\n"));
  await page.getByRole("button", { name: "Use these lines" }).click();
}

const animals = ["cat", "dog", "horse", "sparrow", "salmon"];
const manyLines = (count) =>
  Array.from({ length: count }, (_, index) => `Sentence ${index + 1} is about a ${animals[index % 5]}`);
const points = (page) => page.locator("#map g[data-number]");

test("the similarity of the two sentences is there at first sight", () =>
  visit({}, async (page) => {
    assert.ok(
      await page.locator("#cosine").evaluate((node) => node.getBoundingClientRect().bottom < window.innerHeight),
    );
    assert.deepEqual((await texts(page, ".matrix tbody tr:nth-child(1) td")).slice(0, 2), ["1.000", "0.742"]);
    assert.match(await page.textContent("#neighbors li"), /^2 · I am so cold0\.742$/);
    assert.equal(await page.getByLabel("Text 1", { exact: true }).inputValue(), SAMPLES[0]);
    assert.deepEqual((await texts(page, "#texts summary")).slice(0, 2), ["6 of 256 tokens", "6 of 256 tokens"]);
    assert.deepEqual(await texts(page, "#texts li:nth-child(2) .token"), ["[CLS]", "I", "am", "so", "cold", "[SEP]"]);
    assert.deepEqual(await texts(page, "#timing dt"), ["tokenize", "queue", "inference", "network and browser"]);
    assert.ok((await texts(page, "#timing dd")).every((value) => /^[\d,.]+\sms$/.test(value)));
    await untilText(page, "#state", "Ready");
  }));

test("typing changes the matrix, the neighbors and the request", () =>
  visit({}, async (page) => {
    const second = page.getByLabel("Text 2", { exact: true });
    await second.press("End");
    await second.pressSequentially(" and it's late");
    await untilText(page, "#code-curl", /"I am so cold and it'\\''s late"/);
    const [, ...cosines] = await texts(page, ".matrix tbody tr:nth-child(1) td");
    assert.notEqual(cosines[0], "0.742");
    assert.equal(await page.textContent("#cosine"), cosines.toSorted().at(-1));
    assert.match(await page.textContent("#code-curl"), /it'\\''s late/);
    await second.fill("");
    await untilText(page, "#cosine-caption", /text 3\.$/);
    await second.fill(SAMPLES[0]);
    await untilText(page, "#cosine", "1.000");
  }));

test("texts are added and removed", () =>
  visit({}, async (page) => {
    await page.getByRole("button", { name: "Add a text" }).click();
    const added = page.getByLabel("Text 4", { exact: true });
    assert.ok(await added.evaluate((node) => node === document.activeElement));
    await added.fill(OTHER);
    await page.waitForFunction(() => document.querySelectorAll(".matrix td").length === 16);
    for (const rest of [3, 2]) {
      await page.getByRole("button", { name: "Remove text 3" }).click();
      await page.waitForFunction((rest) => document.querySelectorAll(".matrix td").length === rest * rest, rest);
    }
    assert.equal(await page.getByRole("button", { name: /^Remove/ }).count(), 0);
  }));

test("the keyboard alone reaches and operates everything", () =>
  visit({}, async (page) => {
    const order = await page.evaluate(() => {
      const all = document.querySelectorAll("a, button, textarea, input, select, summary, [tabindex]");
      const reachable = [...all].filter((node) => node.tabIndex >= 0 && node.checkVisibility() && !node.disabled);
      reachable.forEach((node, index) => (node.dataset.order = index));
      return reachable.length;
    });
    const reached = new Set();
    for (let step = 0; step < order; step += 1) {
      await page.keyboard.press("Tab");
      const [at, hasOutline] = await page.evaluate(() => {
        const { dataset, classList } = document.activeElement;
        const style = getComputedStyle(document.activeElement);
        const ring = document.activeElement.querySelector("circle");
        return [dataset.order, ring !== null || classList.contains("skip") || style.outlineStyle !== "none"];
      });
      assert.ok(hasOutline, `the focus on element ${at} is not visible`);
      reached.add(at);
    }
    assert.equal(reached.size, order);

    await page.locator("#tab-curl").focus();
    for (const [pressed, id] of [
      ["ArrowRight", "python"],
      ["End", "variables"],
      ["ArrowRight", "curl"],
      ["ArrowLeft", "variables"],
    ]) {
      await page.keyboard.press(pressed);
      assert.equal(await page.evaluate(() => document.activeElement.id), `tab-${id}`);
      assert.deepEqual(await page.locator(".panel:visible").evaluateAll((panels) => panels.map((panel) => panel.id)), [
        `panel-${id}`,
      ]);
    }
    await points(page).first().focus();
    await page.keyboard.press("ArrowRight");
    assert.match(
      await page.evaluate(() => document.activeElement.getAttribute("aria-label")),
      /^Text 2: I am so cold\. Nearest: text 1\.$/,
    );
    assert.equal(await page.textContent("#map .tip"), "2 · I am so cold");
    await page.locator("#add").focus();
    await page.keyboard.press("Enter");
    await page.keyboard.type("typed by keys");
    await page.waitForFunction(() => document.querySelectorAll(".matrix td").length === 16);
  }));

test("a wrong key, no key and the right key", () =>
  visit({ url: keyed, ready: false, expected: FAILED_REQUEST }, async (page) => {
    await untilText(page, "#notice", /needs an API key/);
    await untilText(page, "#state", "Needs an API key");
    const field = page.getByLabel("API key");
    await field.fill("sk-wrong");
    await field.press("Enter");
    await untilText(page, "#notice", /does not accept this API key/);
    assert.equal(await field.getAttribute("aria-invalid"), "true");
    await field.fill("ключ");
    await field.press("Enter");
    await untilText(page, "#notice", /without spaces/);
    await picture(page, "key");
    await assertAccessible(page);
    await field.fill("sk-tester");
    await field.press("Enter");
    await untilText(page, "#cosine", "0.742");
    assert.ok(await page.locator("#notice").isHidden());
    assert.match(await page.textContent("#code-python"), /api_key="YOUR_KEY"/);
    // For this tab only: it survives a reload, and another tab does not have it.
    await page.reload();
    await untilText(page, "#cosine", "0.742");
    const other = await page.context().newPage();
    await other.goto(keyed);
    await untilText(other, "#notice", /needs an API key/);
    await page.getByRole("button", { name: "Forget it" }).click();
    await untilText(page, "#notice", /needs an API key/);
  }));

test("a server that is gone and comes back", () =>
  visit({ expected: FAILED_REQUEST }, async (page, context) => {
    await context.setOffline(true);
    await untilText(page, "#notice", /does not answer/);
    await untilText(page, "#state", "No answer");
    await page.getByLabel("Text 2", { exact: true }).fill(OTHER);
    await context.setOffline(false);
    await untilText(page, "#code-curl", new RegExp(OTHER));
    await untilText(page, "#state", "Ready");
    assert.ok(await page.locator("#notice").isHidden());
  }));

for (const [status, message, said] of [
  [429, "Rate limit reached", /The rate limit is reached\. The page tries again in 1 second\..*Rate limit reached/],
  [503, "The queue is full", /The server is busy\. The page tries again in 1 second\..*The queue is full/],
]) {
  test(`a response with status ${status} is tried again after retry-after`, () =>
    visit({ expected: FAILED_REQUEST }, async (page) => {
      let isBusy = true;
      await page.route("**/v1/embeddings", (route) =>
        isBusy
          ? route.fulfill({ status, headers: { "retry-after": "1" }, json: { error: { message } } })
          : route.continue(),
      );
      await page.getByLabel("Text 2", { exact: true }).fill(OTHER);
      await untilText(page, "#notice", said);
      isBusy = false;
      await untilText(page, "#code-curl", new RegExp(OTHER));
      assert.ok(await page.locator("#notice").isHidden());
    }));
}

test("a rejected request is explained by the server's message", () =>
  visit({ expected: FAILED_REQUEST }, async (page) => {
    await page.route("**/v1/embeddings", (route) =>
      route.fulfill({ status: 400, json: { error: { message: "Too long" } } }),
    );
    await page.getByLabel("Text 2", { exact: true }).fill("another text");
    await untilText(page, "#notice", "The server rejected the request with status 400: Too long");
  }));

test("a server that loads its models", () => {
  let isLoading = true;
  const prepare = (page) =>
    page.route("**/status", async (route) => {
      const response = await route.fetch();
      const json = await response.json();
      return route.fulfill({ json: isLoading ? { ...json, state: "loading", models: [] } : json });
    });
  return visit({ ready: false, prepare }, async (page) => {
    await untilText(page, "#notice", /models are loading/);
    await untilText(page, "#state", "Loading its models");
    isLoading = false;
    await untilText(page, "#cosine", "0.742");
    await untilText(page, "#state", "Ready");
  });
});

test("many pasted lines: the first 50 become a map without overlapping labels", () =>
  visit({}, async (page) => {
    await paste(page, manyLines(60));
    await page.waitForFunction(() => document.querySelectorAll(".matrix td").length === 2500);
    await untilText(page, "#spoken", "The first 50 of 60 lines are used.");
    assert.equal(await page.locator("#texts textarea").count(), 50);
    assert.ok(await page.locator("#add").isDisabled());
    assert.equal(await points(page).count(), 50);
    const neighbors = (await texts(page, "#neighbors strong")).map((text) => Number(text.replace("−", "-")));
    assert.equal(neighbors.length, 49);
    assert.deepEqual(
      neighbors,
      neighbors.toSorted((a, b) => b - a),
    );
    const overlaps = await page.evaluate(() => {
      const boxes = [...document.querySelectorAll("#map g[data-number] text")].map((node) =>
        node.getBoundingClientRect(),
      );
      const hit = (a, b) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
      return boxes.filter((box, index) => boxes.slice(index + 1).some((other) => hit(box, other))).length;
    });
    assert.equal(overlaps, 0);
    // Texts about the same animal are neighbors, on the map as well.
    assert.equal(await page.locator("#map-table tbody tr").count(), 50);
    await points(page).nth(6).locator("circle").hover({ force: true });
    assert.match(await page.textContent("#map .tip"), /^\d+ · Sentence \d+ is about a /);
    assert.match(await page.textContent("#code-python"), /Sentence 5 is/);
    assert.doesNotMatch(await page.textContent("#code-python"), /Sentence 6 is/);
    await picture(page, "fifty-texts", { fullPage: true });
    await assertLayout(page);
    await assertAccessible(page);
  }));

test("a text that is longer than the window shows where the window ends", () =>
  visit({}, async (page) => {
    await page.getByLabel("Text 2", { exact: true }).fill(LONG);
    const item = page.locator("#texts li:nth-child(2)");
    await untilText(page, "#texts li:nth-child(2) summary", "422 of 256 tokens");
    await untilText(
      page,
      "#texts li:nth-child(2) .cut",
      /window of 256 tokens: its last 166 tokens \(\d+ characters\), struck out above, have no effect/,
    );
    assert.equal(await item.locator("del .token:not(.special)").count(), 166);
    // With the first and the last, which are special, as many tokens as the window has.
    assert.equal((await item.locator(".token").count()) - 166, 256);
    const line = await item
      .locator("del .token")
      .first()
      .evaluate((node) => getComputedStyle(node).textDecorationLine);
    assert.match(line, /line-through/);
    await picture(page, "long-text", { fullPage: true });
    await assertAccessible(page);
    await assertLayout(page);
  }));

for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of [
    [320, 640],
    [768, 1024],
    [1280, 900],
    [3840, 2160],
  ]) {
    test(`the layout at ${width} px, ${colorScheme}`, () =>
      visit({ colorScheme, viewport: { width, height } }, async (page) => {
        await page.waitForFunction(() => document.querySelectorAll("#charts path[d^=M]").length > 0);
        await assertLayout(page);
        await assertAccessible(page);
        const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(background === "rgb(255, 255, 255)", colorScheme === "light");
        await picture(page, `${width}-${colorScheme}`, { fullPage: true });
      }));
  }

  test(`the picture for the README, ${colorScheme}`, () => {
    // The address of the documentation, in the place of this server's.
    const url = "http://127.0.0.1:8080/";
    const prepare = (page) =>
      page.route(`${url}**`, async (route) => {
        const response = await route.fetch({ url: route.request().url().replace(url, `${plain}/`) });
        await route.fulfill({ response });
      });
    return visit({ url, colorScheme, prepare, viewport: { width: 1280, height: 938 } }, (page) =>
      picture(page, colorScheme),
    );
  });
}

test("the page under a path prefix, with and without a slash at the end", async () => {
  for (const url of [`${prefixed}/ai/vectors`, `${prefixed}/ai/vectors/`]) {
    await visit({ url }, async (page) => {
      assert.equal(await page.textContent("#address"), `${prefixed}/ai/vectors/v1`);
      const links = await page.locator("footer a").evaluateAll((found) => found.map((link) => link.href));
      assert.ok(links.length >= 7 && links.every((link) => link.startsWith(`${prefixed}/ai/vectors/`)), String(links));
      for (const link of links) assert.equal((await fetch(link)).status, 200, link);
    });
  }
});

test("a copy button puts its code on the clipboard", () =>
  visit({ permissions: ["clipboard-read", "clipboard-write"] }, async (page) => {
    await page.locator("#tab-langchain").click();
    await page.locator("#panel-langchain").getByRole("button", { name: "Copy" }).click();
    await untilText(page, "#spoken", "Copied.");
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(copied, await page.textContent("#code-langchain"));
    assert.match(copied, /^from langchain_openai import OpenAIEmbeddings\n/);
  }));

test("the code of the page is that of docs/clients.md, which the clients' group runs", () =>
  visit({}, async (page) => {
    const guide = readFileSync("docs/clients.md", "utf8");
    await paste(page, ["I am so cold", "I feel extremely chilly"]);
    await page.waitForFunction(() => document.querySelectorAll(".matrix td").length === 4);
    for (const [id, client, language] of [
      ["python", "openai (Python)", "python"],
      ["javascript", "openai (Node)", "js"],
      ["langchain", "langchain-openai (Python)", "python"],
      ["llamaindex", "llama-index-embeddings-openai-like (Python)", "python"],
      ["litellm", "litellm (Python)", "python"],
    ]) {
      const block = guide.split(`\n### ${client}\n`)[1].split(`\`\`\`${language}\n`)[1].split("\n```")[0];
      const expected = block
        .replace("http://127.0.0.1:8080", plain)
        .replace("all-MiniLM-L6-v2", "text-embedding-3-small");
      assert.equal(await page.textContent(`#code-${id}`), expected, client);
    }
    await untilText(page, "#dimensions-advice", /^Send dimensions: 384, or nothing\./);
  }));

test("the request for curl runs as it is", (context) =>
  visit({}, async (page) => {
    await page.getByLabel("Text 2", { exact: true }).fill(`it's "quoted" \\ and ü`);
    await page.waitForFunction(() => document.querySelector("#code-curl").textContent.includes("quoted"));
    try {
      execFileSync("curl", ["--version"]);
    } catch {
      return context.skip("there is no curl");
    }
    const answer = execFileSync("bash", ["-c", `${await page.textContent("#code-curl")} --silent`], {
      encoding: "utf8",
    });
    assert.equal(JSON.parse(answer).data.length, 3);
  }));

test("what is served: names, sizes, precision and protections", () =>
  visit({}, async (page) => {
    assert.equal(await page.textContent("#models h3"), "all-MiniLM-L6-v2");
    assert.ok((await texts(page, "#models .chips li")).includes("text-embedding-3-small"));
    const facts = Object.fromEntries(
      await page
        .locator("#served dl > div")
        .evaluateAll((found) => found.map((node) => [...node.children].map((child) => child.textContent))),
    );
    assert.equal(facts.Dimensions, "384");
    assert.equal(facts.Window, "256 tokens");
    assert.match(facts.Precision, /^(fp32|bf16|int8)$/);
    assert.match(facts.Backend, /^native/);
    for (const name of ["API keys", "Rate limits", "CORS", "TLS"]) assert.equal(facts[name], "off", name);
    assert.match(facts.Memory, /^[\d.,]+\sMB$/);
  }));

test("the charts count requests and stop while the page is hidden", () => {
  let readings = 0;
  const prepare = async (page) => {
    await page.clock.install();
    await page.route("**/status", (route) => {
      readings += 1;
      return route.continue();
    });
  };
  return visit({ prepare }, async (page) => {
    const isAfter = async (count) => {
      await page.clock.runFor(2_000);
      await page.waitForLoadState("networkidle");
      return readings > count;
    };
    while (!(await isAfter(3)));
    await page.waitForFunction(() => document.querySelectorAll("#charts path[d^=M]").length >= 4);
    assert.match(
      await page.locator("#charts svg").first().getAttribute("aria-label"),
      /^Requests a second of the last \d+ s: now [\d.]+, at most [\d.]+\.$/,
    );
    const setHidden = (hidden) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => value });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await setHidden(true);
    const before = readings;
    await page.clock.runFor(60_000);
    assert.equal(readings, before);
    await setHidden(false);
    while (!(await isAfter(before)));
  });
});

test("without JavaScript the requests are there", () =>
  visit({ ready: false, javaScriptEnabled: false }, async (page) => {
    assert.equal(await page.textContent("#address"), `${plain}/v1`);
    assert.equal(await page.locator(".panel:visible").count(), 7);
    assert.match(await page.textContent("noscript p"), /Without JavaScript/);
  }));
