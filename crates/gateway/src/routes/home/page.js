// Behavior of the page at `/`. It reads GET /status and sends POST /v1/embeddings and /tokenize to the server that the
// page came from. Texts become elements by textContent alone, so no text can become markup.

const MAX_TEXTS = 50;
const TYPING_PAUSE_MS = 250;
const POLL_INTERVAL_MS = 2000;
const MAX_READINGS = 150;
/** Readings over which rates and percentiles are taken: one alone has too few requests. */
const RATE_READINGS = 5;
const MAX_SHOWN_TOKENS = 1000;
const MAX_SNIPPET_TEXTS = 5;
const KEY_NAME = "embedgate-key";
const SAMPLES = ["I feel extremely chilly", "I am so cold", "The bank opens at nine"];

/** The server's address as this browser knows it: also right behind a proxy that removes a path. */
const root = new URL(location.pathname.replace(/\/*$/, "/"), location.origin);

const byId = (id) => document.getElementById(id);

// Elements

function fillIn(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const html = (name, attributes = {}, ...children) => fillIn(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fillIn(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

/** Assistive software reads a short message aloud. */
function speak(text) {
  byId("spoken").textContent = text;
}

function definitions(list, entries) {
  const entry = ([term, value]) =>
    html("div", { class: value.length > 24 ? "wide" : null }, html("dt", {}, term), html("dd", {}, value));
  list.replaceChildren(...entries.map(entry));
}

function table(head, rows) {
  const cells = (row) => row.map((cell) => html("td", {}, cell));
  const columns = head.map((name) => html("th", { scope: "col" }, name));
  return html(
    "table",
    { class: "list" },
    html("thead", {}, html("tr", {}, ...columns)),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...cells(row)))),
  );
}

const number = (value, digits = 0) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const signed = (value, digits) => value.toFixed(digits).replace("-", "−");
const rate = (value) => number(value, value > 0 && value < 10 ? 1 : 0);
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const milliseconds = (value) => `${number(value, value < 10 ? 2 : value < 100 ? 1 : 0)}\u00a0ms`;
const megabytes = (bytes) => (bytes ? `${number(bytes / 1e6, bytes < 1e7 ? 1 : 0)}\u00a0MB` : "unknown");
const onOrOff = (value) => (value ? "on" : "off");

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${number(seconds / 3600, 1)} h` : `${number(seconds / 86400, 1)} days`;
}

// Requests

/** A response that is not a success; status 0 if there was none. */
class RequestError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let key = storedKey();

// A browser without storage for pages throws; the key is then kept until the page is left.
function storedKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? "";
  } catch {
    return "";
  }
}

function storeKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(KEY_NAME, value);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {}
}

async function request(path, body, signal) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const options = {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal,
    cache: "no-store",
  };
  let response;
  try {
    response = await fetch(new URL(path, root), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new RequestError(0, "no response");
  }
  const json = await response.json().catch(() => null);
  if (response.ok && json) return { json, headers: response.headers };
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  throw new RequestError(response.status, json?.error?.message ?? json?.error ?? response.statusText, retryAfter);
}

// Messages about the server

let state = "";

function showState(name, text) {
  if (state === name) return;
  state = name;
  byId("state").textContent = text;
  byId("dot").className = name === "ready" ? "dot good" : "dot";
}

function notify(text) {
  const notice = byId("notice");
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

/** Says what happened and what to do, and tries again where that can help. */
function report(error) {
  const wait = Math.max(error.retryAfter, 1);
  const later = `The page tries again in ${plural(wait, "second")}.`;
  byId("key").removeAttribute("aria-invalid");
  // The next successful reading of the status then computes the texts again.
  if (error.status === 401 || error.status === 0) model = null;
  if (error.status === 401) {
    showState("locked", "Needs an API key");
    byId("key-form").hidden = false;
    if (key) byId("key").setAttribute("aria-invalid", "true");
    notify(
      key
        ? "The server does not accept this API key. Check it and enter it again."
        : "This server needs an API key. Enter yours to try it.",
    );
  } else if (error.status === 0) {
    showState("gone", "No answer");
    notify("The server does not answer. Is it running? The page tries again every 2 seconds.");
  } else if (error.status === 429) {
    notify(`The rate limit is reached. ${later} The server says: ${error.message}`);
    retryIn(wait);
  } else if (error.status === 503) {
    notify(
      state === "loading"
        ? `The models are loading. ${later}`
        : `The server is busy. ${later} It says: ${error.message}`,
    );
    retryIn(wait);
  } else {
    notify(`The server rejected the request with status ${error.status}: ${error.message}`);
  }
}

// Try it: the texts

let status = null;
let model = null;
const entries = [];
/** For each text of the page: its vector, and true if the server truncated it. */
const vectors = new Map();
const tokens = new Map();
let typing = 0;
let retry = 0;
let inFlight = null;

function retryIn(seconds) {
  clearTimeout(retry);
  retry = setTimeout(update, seconds * 1000);
}

function addEntry(text) {
  const area = html("textarea", {
    rows: 2,
    spellcheck: "false",
    oninput: () => {
      clearTimeout(typing);
      typing = setTimeout(update, TYPING_PAUSE_MS);
    },
    onfocus: () => mark(entry, true),
    onblur: () => mark(entry, false),
  });
  area.value = text;
  const entry = {
    area,
    label: html("label"),
    remove: html("button", { type: "button", onclick: () => removeEntry(entry) }, "Remove"),
    count: html("summary", {}, "Tokens"),
    strip: html("p", { class: "strip" }),
    cut: html("p", { class: "cut", hidden: "" }),
    cutoff: null,
  };
  entry.tokens = html("details", {}, entry.count, entry.strip);
  entry.item = html("li", {}, html("header", {}, entry.label, entry.remove), area, entry.tokens, entry.cut);
  entries.push(entry);
  byId("texts").append(entry.item);
  return entry;
}

function removeEntry(entry) {
  const at = entries.indexOf(entry);
  entries.splice(at, 1);
  entry.item.remove();
  numberEntries();
  entries[Math.min(at, entries.length - 1)].area.focus();
  speak(`Text ${at + 1} is removed.`);
  update();
}

function numberEntries() {
  entries.forEach((entry, index) => {
    entry.number = index + 1;
    entry.label.textContent = `Text ${index + 1}`;
    entry.area.id = `text-${index + 1}`;
    entry.label.htmlFor = entry.area.id;
    entry.remove.setAttribute("aria-label", `Remove text ${index + 1}`);
    entry.remove.hidden = entries.length <= 2;
  });
  byId("texts").classList.toggle("many", entries.length > 5);
  byId("add").disabled = entries.length >= MAX_TEXTS;
}

function replaceEntries(texts) {
  for (const entry of entries.splice(0)) entry.item.remove();
  for (const text of texts) addEntry(text).tokens.open = texts.length <= 3;
  while (entries.length < 2) addEntry("");
  numberEntries();
}

/** Shows which point of the map is the text with the focus. */
function mark(entry, isCurrent) {
  entry.item.classList.toggle("current", isCurrent);
  byId("map").querySelector(`[data-number="${entry.number}"]`)?.classList.toggle("current", isCurrent);
}

/** Computes what is missing for the current texts, and draws all of them. */
async function update() {
  clearTimeout(typing);
  clearTimeout(retry);
  inFlight?.abort();
  if (!model) return;
  const current = (inFlight = new AbortController());
  const wanted = new Set(entries.map((entry) => entry.area.value).filter((text) => text.trim()));
  const missing = [...wanted].filter((text) => !vectors.has(text) || !tokens.has(text));
  try {
    if (missing.length > 0) await compute(missing, current.signal);
  } catch (error) {
    if (error.name !== "AbortError") report(error);
    return;
  }
  for (const known of [vectors, tokens]) {
    for (const text of known.keys()) if (!wanted.has(text)) known.delete(text);
  }
  notify("");
  draw();
}

async function compute(texts, signal) {
  const started = performance.now();
  const tokenizing = request("tokenize", { model: model.id, inputs: texts }, signal);
  // Awaited below; an error of the first request must not leave this one unhandled.
  tokenizing.catch(() => {});
  const { json, headers } = await request("v1/embeddings", { model: model.id, input: texts }, signal);
  const elapsed = performance.now() - started;
  const isTruncated = Number(headers.get("x-embedgate-truncated")) > 0;
  const lists = (await tokenizing).json;
  texts.forEach((text, index) => {
    vectors.set(text, { vector: unit(json.data[index].embedding), isTruncated });
    tokens.set(text, lists[index]);
  });
  drawTiming(headers.get("server-timing") ?? "", elapsed, texts.length, json.usage.prompt_tokens);
}

function unit(vector) {
  const norm = Math.hypot(...vector) || 1;
  return Float64Array.from(vector, (value) => value / norm);
}

function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index += 1) sum += a[index] * b[index];
  return sum;
}

// Try it: the results

function draw() {
  const items = [];
  for (const entry of entries) {
    const text = entry.area.value;
    const known = vectors.get(text);
    drawTokens(entry, tokens.get(text), known?.isTruncated);
    if (known) items.push({ number: entry.number, text, vector: known.vector });
  }
  const similarities = items.map((a) => items.map((b) => dot(a.vector, b.vector)));
  drawNeighbors(items, similarities);
  drawMatrix(items, similarities);
  drawMap(items, similarities);
  fillSnippets(items.map((item) => item.text));
}

function drawNeighbors(items, similarities) {
  const isFirst = items[0]?.number === 1;
  const others = isFirst ? items.slice(1).map((item, index) => ({ ...item, cosine: similarities[0][index + 1] })) : [];
  others.sort((a, b) => b.cosine - a.cosine);
  const [nearest] = others;
  byId("cosine").textContent = nearest ? signed(nearest.cosine, 3) : "–";
  byId("cosine-caption").textContent = nearest
    ? `is the cosine similarity of text 1 and ${others.length > 1 ? "its nearest neighbor, " : ""}text ${nearest.number}.`
    : "Write text 1 and another one to compare them.";
  const row = ({ number: at, text, cosine }) =>
    html(
      "li",
      {},
      html("span", {}, `${at} · ${text}`),
      html("strong", {}, signed(cosine, 3)),
      html("div", { class: "bar", "aria-hidden": "true", "--share": Math.max(cosine, 0).toFixed(3) }, html("i")),
    );
  byId("neighbors").replaceChildren(html("ol", { class: "neighbors" }, ...others.map(row)));
}

function drawMatrix(items, similarities) {
  const digits = items.length > 6 ? 2 : 3;
  const cell = (cosine, row, column) => {
    const attributes = { "--share": Math.max(cosine, 0).toFixed(3), class: row === column ? "self" : null };
    return html("td", attributes, signed(cosine, digits));
  };
  const rows = items.map(({ number: at, text }, row) =>
    html(
      "tr",
      {},
      html("th", { scope: "row", title: text }, `${at} · ${text}`),
      ...similarities[row].map((cosine, column) => cell(cosine, row, column)),
    ),
  );
  const columns = items.map((item) => html("th", { scope: "col" }, `${item.number}`));
  byId("matrix").replaceChildren(
    html(
      "table",
      { class: "matrix" },
      html("caption", { class: "hidden" }, "Cosine similarity of each pair of texts"),
      html(
        "thead",
        {},
        html("tr", {}, html("th", { scope: "col" }, html("span", { class: "hidden" }, "Text")), ...columns),
      ),
      html("tbody", {}, ...rows),
    ),
  );
}

function drawTiming(header, elapsed, texts, count) {
  const phases = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, value]) => [name, Number(value)]);
  const known = phases.reduce((sum, [, value]) => sum + value, 0);
  phases.push(["network and browser", Math.max(elapsed - known, 0)]);
  const cached = phases.some(([name, value]) => name === "inference" && value === 0) ? ", from the cache" : "";
  const list = html("dl", { class: "facts timing" });
  definitions(
    list,
    phases.map(([name, value]) => [name, milliseconds(value)]),
  );
  byId("timing").replaceChildren(
    html(
      "div",
      { class: "phases", "aria-hidden": "true" },
      ...phases.map(([, value]) => html("i", { "--share": value })),
    ),
    list,
    html(
      "p",
      {},
      html("small", {}, `${plural(texts, "text")} and ${plural(count, "token")} in ${milliseconds(elapsed)}${cached}`),
    ),
  );
}

/** Number of tokens before the first that is beyond the window; special tokens after the text keep their place. */
function tokensInWindow(list, window) {
  const special = list.filter((token) => token.special).length;
  let room = window - special;
  const first = list.findIndex((token) => !token.special && (room -= 1) < 0);
  return first < 0 ? list.length : first;
}

function drawTokens(entry, list, isTruncated) {
  entry.cut.hidden = true;
  entry.strip.replaceChildren();
  entry.count.textContent = list ? `${number(list.length)} of ${plural(model.max_input_tokens, "token")}` : "No tokens";
  if (!list) return;
  const characters = Array.from(entry.area.value);
  const chip = (token) => {
    const isPart = token.start !== null && token.stop > token.start;
    const text = isPart ? characters.slice(token.start, token.stop).join("") : token.text;
    return html(
      "span",
      { class: token.special ? "token special" : "token", title: `id ${token.id}: ${token.text}` },
      text,
    );
  };
  const end = list.length > model.max_input_tokens ? tokensInWindow(list, model.max_input_tokens) : list.length;
  const spaced = (from, to) => list.slice(from, Math.min(to, MAX_SHOWN_TOKENS)).flatMap((token) => [chip(token), " "]);
  entry.strip.append(...spaced(0, end));
  if (end < list.length) {
    entry.strip.append(html("del", {}, ...spaced(end, list.length)));
    const beyond = list.slice(end).filter((token) => !token.special);
    const left = characters.length - (beyond[0]?.start ?? characters.length);
    entry.cut.textContent =
      `This text is longer than the model’s window of ${plural(model.max_input_tokens, "token")}: ` +
      `its last ${plural(beyond.length, "token")} (${plural(left, "character")}), struck out above, ` +
      (isTruncated ? "have no effect on its vector." : "are embedded apart, and the vectors are averaged.");
    entry.cut.hidden = false;
    if (entry.cutoff !== end) {
      entry.tokens.open = true;
      // The last lines within the window, and the first beyond it.
      entry.strip.scrollTop = entry.strip.querySelector("del").offsetTop - entry.strip.clientHeight / 2;
    }
  }
  entry.cutoff = end < list.length ? end : null;
  if (list.length > MAX_SHOWN_TOKENS)
    entry.strip.append(`… and ${plural(list.length - MAX_SHOWN_TOKENS, "further token")}`);
  // What scrolls must be reachable by the keyboard.
  const scrolls = entry.strip.scrollHeight > entry.strip.clientHeight;
  if (scrolls)
    fillIn(entry.strip, { tabindex: "0", role: "group", "aria-label": `Tokens of text ${entry.number}` }, []);
  else for (const name of ["tabindex", "role", "aria-label"]) entry.strip.removeAttribute(name);
}

// Try it: the map

/** The eigenvector of the largest eigenvalue of a symmetric matrix, by power iteration, and that eigenvalue. */
function topEigenvector(matrix) {
  let vector = unit(matrix.map((_, index) => 1 + (index % 7) / 7));
  let value = 0;
  for (let step = 0; step < 300; step += 1) {
    const next = matrix.map((row) => dot(row, vector));
    value = Math.hypot(...next);
    if (value < 1e-12) return { vector: next, value: 0 };
    const before = vector;
    vector = next.map((component) => component / value);
    if (Math.abs(dot(before, vector)) > 1 - 1e-12) break;
  }
  // An eigenvector has two directions: the largest component is positive, so that the map does not flip.
  const largest = vector.reduce((best, component) => (Math.abs(component) > Math.abs(best) ? component : best), 0);
  return { vector: largest < 0 ? vector.map((component) => -component) : vector, value };
}

/** Coordinates on the two principal components, from the dot products of the vectors, and their share of the variance. */
function principalComponents(products) {
  const size = products.length;
  const means = products.map((row) => row.reduce((sum, value) => sum + value, 0) / size);
  const mean = means.reduce((sum, value) => sum + value, 0) / size;
  let rest = products.map((row, i) => row.map((value, j) => value - means[i] - means[j] + mean));
  const variance = rest.reduce((sum, row, index) => sum + row[index], 0);
  const axes = [];
  let explained = 0;
  for (let axis = 0; axis < 2; axis += 1) {
    const { vector, value } = topEigenvector(rest);
    axes.push(vector.map((component) => component * Math.sqrt(value)));
    explained += value;
    rest = rest.map((row, i) => row.map((entry, j) => entry - value * vector[i] * vector[j]));
  }
  return { points: axes[0].map((x, index) => [x, axes[1][index]]), share: variance > 0 ? explained / variance : 1 };
}

function drawMap(items, similarities) {
  const figure = byId("map-figure");
  figure.hidden = items.length < 3;
  figure.classList.toggle("many", items.length > 8);
  if (figure.hidden) return;
  const { points, share } = principalComponents(similarities);
  // Sizes of labels follow the text size of the page.
  const em = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  const { clientWidth: width, clientHeight: height } = byId("map");
  const span = (axis) => Math.max(...points.map((p) => p[axis])) - Math.min(...points.map((p) => p[axis]));
  const middle = (axis) => (Math.max(...points.map((p) => p[axis])) + Math.min(...points.map((p) => p[axis]))) / 2;
  // One scale for both axes, so that distances can be compared.
  const scale = Math.min((width - 130 * em) / (span(0) || 1), (height - 80 * em) / (span(1) || 1));
  const nearest = similarities.map((row, at) =>
    row.reduce((best, cosine, other) => (other !== at && (best < 0 || cosine > row[best]) ? other : best), -1),
  );
  const places = items.map((item, index) => ({
    ...item,
    x: width / 2 + (points[index][0] - middle(0)) * scale,
    y: height / 2 - (points[index][1] - middle(1)) * scale,
    title: `Text ${item.number}: ${shorten(item.text, 60)}. Nearest: text ${items[nearest[index]].number}.`,
  }));
  const tip = svg("g", { class: "tip", "aria-hidden": "true" });
  const canvas = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "group",
    "aria-label": "Map of the texts; arrow keys move between points",
  });
  const groups = places.map((place, index) =>
    svg(
      "g",
      {
        role: "img",
        tabindex: index === 0 ? "0" : "-1",
        "aria-label": place.title,
        "data-number": place.number,
        onfocus: () => showTip(tip, place, { width, em }),
        onblur: () => tip.replaceChildren(),
        onmouseenter: () => showTip(tip, place, { width, em }),
        onmouseleave: () => tip.replaceChildren(),
        onkeydown: (event) => moveFocus(event, groups, index),
      },
      svg("circle", { cx: place.x, cy: place.y, r: 6 * em }),
    ),
  );
  canvas.append(...groups, tip);
  byId("map").replaceChildren(canvas);
  placeLabels(places, groups, { width, height, em });
  byId("map-caption").textContent =
    `Texts that are near each other are close in meaning. The two axes are the principal ` +
    `components of the vectors and hold ${number(share * 100)}% of their variance.`;
  byId("map-table").replaceChildren(
    table(
      ["Text", "x", "y", "Nearest"],
      items.map((item, index) => [
        `${item.number} · ${shorten(item.text, 40)}`,
        ...points[index].map((value) => signed(value, 3)),
        `${items[nearest[index]].number}`,
      ]),
    ),
  );
}

const shorten = (text, length) =>
  Array.from(text).length > length
    ? `${Array.from(text)
        .slice(0, length - 1)
        .join("")}…`
    : text;

/** Gives each point the longest label that overlaps nothing: its text, else its number, else none. */
function placeLabels(places, groups, { width, height, em }) {
  const taken = places.map(({ x, y }) => ({
    left: x - 8 * em,
    right: x + 8 * em,
    top: y - 8 * em,
    bottom: y + 8 * em,
  }));
  const isFree = (box) =>
    box.left > 4 &&
    box.right < width - 4 &&
    box.top > 4 &&
    box.bottom < height - 4 &&
    taken.every(
      (other) => box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom,
    );
  for (const [index, { x, y, text, number: at }] of places.entries()) {
    const label = svg("text", { "aria-hidden": "true" });
    groups[index].append(label);
    const options = [`${at} · ${shorten(text, 28)}`, `${at}`].flatMap((content) => {
      label.textContent = content;
      const length = label.getComputedTextLength();
      return [
        [x + 11 * em, y + 4 * em],
        [x - 11 * em - length, y + 4 * em],
        [x - length / 2, y - 13 * em],
        [x - length / 2, y + 22 * em],
      ].map(([left, base]) => ({
        content,
        left,
        base,
        box: { left, right: left + length, top: base - 11 * em, bottom: base + 4 * em },
      }));
    });
    const chosen = options.find((option) => isFree(option.box));
    if (chosen) {
      taken.push(chosen.box);
      label.textContent = chosen.content;
      fillIn(label, { x: chosen.left, y: chosen.base }, []);
    } else label.remove();
  }
}

function showTip(tip, { x, y, number: at, text }, { width, em }) {
  const label = svg("text", {}, `${at} · ${shorten(text, Math.floor(width / (9 * em)))}`);
  tip.replaceChildren(label);
  const length = label.getComputedTextLength();
  const left = Math.min(Math.max(x - length / 2, 12), width - length - 12);
  const top = y > 50 * em ? y - 40 * em : y + 14 * em;
  fillIn(label, { x: left, y: top + 17 * em }, []);
  tip.prepend(svg("rect", { x: left - 8, y: top, width: length + 16, height: 25 * em, rx: 6 }));
}

/** Moves the focus among elements of which only one is in the order of the tab key. */
function moveFocus(event, elements, index) {
  const last = elements.length - 1;
  const next = {
    ArrowRight: index + 1,
    ArrowDown: index + 1,
    ArrowLeft: index - 1,
    ArrowUp: index - 1,
    Home: 0,
    End: last,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const target = elements[(next + elements.length) % elements.length];
  for (const element of elements) element.setAttribute("tabindex", element === target ? "0" : "-1");
  target.focus();
}

// Use it

const fields = { base_url: new URL("v1", root).href };

function fillSnippets(texts) {
  const shown = texts.slice(0, MAX_SNIPPET_TEXTS);
  if (shown.length > 0) {
    fields.input = `[${shown.map((text) => JSON.stringify(text)).join(", ")}]`;
    byId("first-texts").textContent = texts.length > shown.length ? ` (of the first ${shown.length})` : "";
    fields.shell_input = fields.input.replaceAll("'", "'\\''");
  }
  if (model) {
    fields.id = model.id;
    fields.model = model.aliases.find((alias) => alias === "text-embedding-3-small") ?? model.aliases[0] ?? model.id;
    byId("dimensions-advice").hidden = false;
    byId("dimensions-advice").textContent = adviceOnDimensions(model);
  }
  for (const node of document.querySelectorAll("[data-fill]")) {
    const value = fields[node.dataset.fill];
    if (value !== undefined && node.textContent !== value) node.textContent = value;
  }
}

function adviceOnDimensions({ dimensions, matryoshka_dimensions: smaller }) {
  const sizes = [...new Set([...(smaller ?? []), dimensions])].sort((a, b) => b - a);
  const others = sizes.slice(1).length > 0 ? `, or one of its shorter sizes (${sizes.slice(1).join(", ")})` : "";
  return (
    `Send dimensions: ${dimensions}${others}, or nothing. The vectors of this model have ${dimensions} numbers. Where a ` +
    `vector database asks for the size of its index, enter ${dimensions}.`
  );
}

function setUpTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === chosen ? "true" : "false");
      tab.setAttribute("tabindex", tab === chosen ? "0" : "-1");
      byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  };
  tabs.forEach((tab, index) =>
    fillIn(
      tab,
      {
        onclick: () => select(tab),
        onfocus: () => select(tab),
        onkeydown: (event) => moveFocus(event, tabs, index),
      },
      [],
    ),
  );
  select(tabs[0]);
}

async function copy(button) {
  const source = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // A page without TLS from another machine has no clipboard of its own.
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  const before = button.textContent;
  button.textContent = "Copied";
  speak("Copied.");
  setTimeout(() => (button.textContent = before), 1500);
}

// What is served

function drawServed({ models, access, memory, version, uptime_seconds: uptime }) {
  if (models.length > 0)
    byId("models").replaceChildren(
      ...models.map((served) => {
        const facts = html("dl", { class: "facts" });
        const { measure, mean, worst } = served.accuracy ?? {};
        const because = served.backend_reason ? `: ${served.backend_reason}` : "";
        const prompts = served.prompts.map((prompt) =>
          prompt === served.default_prompt ? `${prompt} (default)` : prompt,
        );
        definitions(
          facts,
          [
            [
              "Task",
              { embed: "embeddings", rerank: "reranking", "embed-sparse": "sparse embeddings" }[served.task] ??
                served.task,
            ],
            ["State", served.is_loaded ? "loaded" : "loaded by its first request"],
            ["Dimensions", number(served.dimensions)],
            ["Shorter sizes (Matryoshka)", served.matryoshka_dimensions?.join(", ") || "none"],
            ["Window", plural(served.max_input_tokens, "token")],
            ["Prompts", prompts.join(", ") || "none"],
            ["Precision", served.precision ?? "unknown"],
            [
              measure === "score-difference" ? "Score difference to fp32" : "Cosine to fp32",
              mean === undefined ? "1 by definition" : `mean ${mean.toFixed(4)}, worst ${worst.toFixed(4)}`,
            ],
            ["Backend", [served.backend, served.isa].filter(Boolean).join(", ") + because || "unknown"],
            ["License", served.license ?? "unknown"],
            ["Weights", megabytes(served.weights_bytes)],
          ].filter(([term]) => term !== "Cosine to fp32" || served.precision),
        );
        const chips = html(
          "ul",
          { class: "chips", "aria-label": `Other names of ${served.id}` },
          ...served.aliases.map((alias) => html("li", { class: "id" }, alias)),
        );
        return html(
          "article",
          { class: "card" },
          html("h3", { class: "id" }, served.id),
          served.aliases.length > 0 ? chips : "",
          facts,
        );
      }),
    );
  definitions(byId("access"), [
    ["API keys", onOrOff(access.keys)],
    ["Rate limits", onOrOff(access.rate_limits)],
    ["CORS", onOrOff(access.cors)],
    ["TLS", onOrOff(access.tls)],
    ["Memory", megabytes(memory?.resident_bytes)],
    ["Up for", duration(uptime)],
    ["Version", version],
  ]);
}

// How it does

let readings = [];

/** Upper bound below which `share` of the requests between two readings ended, in milliseconds; null without any. */
function percentile(before, now, share) {
  const bounds = now.latency.upper_bounds_seconds;
  const counts = now.latency.counts.map((count, index) => count - before.latency.counts[index]);
  let rank = share * counts.reduce((sum, count) => sum + count, 0);
  if (rank <= 0) return null;
  for (const [index, count] of counts.entries()) {
    if (rank <= count) {
      const low = index > 0 ? bounds[index - 1] : 0;
      const high = bounds[index] ?? low;
      return (low + (high - low) * (rank / count)) * 1000;
    }
    rank -= count;
  }
  return null;
}

const perSecond = (read) => (before, now) => (read(now) - read(before)) / (now.at - before.at);
/** Title, lines (each with a name if there are several), format of a value. A line is null where there is no value. */
const CHARTS = [
  ["Requests a second", [["", perSecond((it) => it.requests.total)]], rate],
  ["Tokens a second", [["", perSecond((it) => it.tokens)]], rate],
  [
    "Latency",
    [
      ["p50", (a, b) => percentile(a, b, 0.5)],
      ["p99", (a, b) => percentile(a, b, 0.99)],
    ],
    milliseconds,
  ],
  ["Requests in the queue", [["", (_, now) => now.queue.requests]], number],
  [
    "Cache hits",
    [
      [
        "",
        (a, b) => {
          const hits = b.cache.hits - a.cache.hits;
          const all = hits + b.cache.misses - a.cache.misses;
          return all > 0 ? (100 * hits) / all : null;
        },
      ],
    ],
    (value) => `${number(value)}%`,
  ],
  ["Truncated inputs a second", [["", perSecond((it) => it.truncated_inputs)]], rate],
];

function drawCharts() {
  const last = readings.at(-1);
  const span = Math.max(last.at - readings[0].at, 30);
  const figures = CHARTS.map(([title, lines, format]) => {
    const series = lines.map(([name, read]) => ({
      name,
      values: readings
        .slice(1)
        .map((now, index) => ({ at: now.at, value: read(readings[Math.max(0, index + 1 - RATE_READINGS)], now) })),
    }));
    const all = series.flatMap((line) => line.values.map((point) => point.value)).filter((value) => value !== null);
    const top = Math.max(...all, 0);
    const latest = series
      .map(({ name, values }) => {
        const value = values.at(-1)?.value ?? null;
        return `${name ? `${name} ` : ""}${value === null ? "–" : format(value)}`;
      })
      .join(" · ");
    const paths = series.map((line, index) =>
      svg("path", { class: index > 0 ? "second" : null, d: pathOf(line.values, last.at, span, top || 1) }),
    );
    const alternative = `${title} of the last ${duration(span)}: now ${latest}, at most ${format(top)}.`;
    return html(
      "figure",
      { class: "chart" },
      html("figcaption", {}, title, html("strong", {}, latest)),
      svg(
        "svg",
        { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": alternative },
        ...paths,
      ),
      html(
        "p",
        {},
        html("span", {}, `last ${duration(span)}`),
        html("span", {}, `at most ${all.length > 0 ? format(top) : "–"}`),
      ),
    );
  });
  byId("charts").replaceChildren(...figures);

  const total = Object.entries(last.requests.errors);
  const row = ([code, count]) => [code, number(count), number(count - (readings[0].requests.errors[code] ?? 0))];
  byId("errors").replaceChildren(
    total.length === 0
      ? html("p", {}, "No error since the start.")
      : table(["Code", "Since the start", `Last ${duration(last.at - readings[0].at)}`], total.map(row)),
  );
}

/** A line from left to right in a box of 100 by 40, with gaps where there is no value. */
function pathOf(values, end, span, top) {
  let isOpen = false;
  return values
    .map(({ at, value }) => {
      if (value === null) {
        isOpen = false;
        return "";
      }
      const point = `${(100 * (1 - (end - at) / span)).toFixed(2)} ${(38 - 36 * (value / top)).toFixed(2)}`;
      const command = isOpen ? `L${point}` : `M${point}h.3`;
      isOpen = true;
      return command;
    })
    .join("");
}

// Polling

let poll = 0;
let served = "";

async function readStatus() {
  clearTimeout(poll);
  let again = !document.hidden;
  try {
    const { json } = await request("status");
    takeStatus(json);
  } catch (error) {
    if (error.status === 503) showState("loading", "Loading its models");
    report(error);
    if (error.status === 0) readings = [];
    // Without the right key, every further request would fail in the same way.
    again &&= error.status !== 401;
  }
  if (again) poll = setTimeout(readStatus, POLL_INTERVAL_MS);
}

function takeStatus(json) {
  const names = { ready: "Ready", loading: "Loading its models", draining: "Shutting down" };
  showState(json.state, names[json.state] ?? json.state);
  byId("key-form").hidden = !json.access.keys;
  byId("key").removeAttribute("aria-invalid");
  if (json.uptime_seconds < readings.at(-1)?.uptime_seconds) readings = [];
  readings.push({ ...json, at: performance.now() / 1000 });
  if (readings.length > MAX_READINGS) readings.shift();
  drawServed(json);
  drawCharts();
  status = json;
  if (json.state === "loading") {
    notify("The models are loading. The page tries again every 2 seconds.");
    return;
  }
  const known = JSON.stringify(json.models.map((one) => [one.id, one.aliases, one.task]));
  if (known !== served || !model) {
    served = known;
    chooseModel(byId("model").value);
  }
}

function chooseModel(id) {
  const models = status.models.filter((one) => one.task === "embed");
  const chosen = models.find((one) => one.id === id) ?? models[0] ?? null;
  byId("model").replaceChildren(...models.map((one) => html("option", { value: one.id }, one.id)));
  byId("model-field").hidden = models.length < 2;
  if (chosen) byId("model").value = chosen.id;
  if (chosen?.id !== model?.id) for (const memo of [vectors, tokens]) memo.clear();
  model = chosen;
  if (model) update();
  else
    notify(
      "No embedding model is served here, so there is nothing to try. The rerank and sparse routes are in the API reference.",
    );
}

// Set-up

byId("add").addEventListener("click", () => {
  const entry = addEntry("");
  numberEntries();
  entry.area.focus();
});
byId("paste").addEventListener("click", () => {
  const form = byId("paste-form");
  form.hidden = !form.hidden;
  byId("paste").setAttribute("aria-expanded", String(!form.hidden));
  if (!form.hidden) byId("lines").focus();
});
byId("paste-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const lines = byId("lines")
    .value.split(/\r?\n/)
    .filter((line) => line.trim());
  if (lines.length === 0) return byId("lines").focus();
  replaceEntries(lines.slice(0, MAX_TEXTS));
  byId("paste").click();
  entries[0].area.focus();
  speak(
    lines.length > MAX_TEXTS
      ? `The first ${MAX_TEXTS} of ${lines.length} lines are used.`
      : `${plural(lines.length, "line")} used.`,
  );
  update();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = byId("key").value.trim();
  // A header holds these characters only.
  if (!/^[\x21-\x7e]+$/.test(value)) {
    byId("key").setAttribute("aria-invalid", "true");
    return notify("An API key has letters, digits and signs without spaces. Check it and enter it again.");
  }
  storeKey(value);
  readStatus();
});
byId("forget").addEventListener("click", () => {
  storeKey("");
  byId("key").value = "";
  byId("key").focus();
  readStatus();
});
byId("model").addEventListener("change", (event) => chooseModel(event.target.value));
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
for (const link of document.querySelectorAll("[data-path]")) link.href = new URL(link.dataset.path, root).href;
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(poll);
  else readStatus();
});
let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth) return;
  width = innerWidth;
  draw();
});

byId("key").value = key;
setUpTabs();
replaceEntries(SAMPLES);
fillSnippets(SAMPLES);
readStatus();
