// OpenAI's own npm SDK. Version 4 turns an ignored `encoding_format: "base64"` into silent zeros a quarter as long.

import assert from "node:assert/strict";

import OpenAI7 from "openai";
import OpenAI4 from "openai-4";

import {
  alias, apiKey, baseURL, check, checkGuide, dimensions, hubId, model, run, sameVector, sameVectors, texts, tokens,
} from "./checks.mjs";

// cl100k_base ids, as tiktoken yields them.
const cold = "I am so cold";
const coldIds = [40, 1097, 779, 9439];

for (const [version, OpenAI] of [["4.104.0", OpenAI4], ["7.57.0", OpenAI7]]) {
  let sent = 0;
  const counting = (url, init) => {
    sent += 1;
    return fetch(url, init);
  };
  const client = new OpenAI({ baseURL, apiKey, fetch: counting });
  const name = (what) => `${version}: ${what}`;

  check(name("list of texts with the SDK's defaults: vectors, order, usage"), async () => {
    const answer = await client.embeddings.create({ model: alias, input: texts });
    sameVectors(answer.data.map((item) => item.embedding), texts);
    assert.deepEqual(answer.data.map((item) => item.index), texts.map((_, index) => index));
    assert.equal(answer.model, alias);
    assert.deepEqual({ ...answer.usage }, { prompt_tokens: tokens(texts), total_tokens: tokens(texts) });
  });

  check(name("one bare text, the empty one included"), async () => {
    for (const text of ["", ...texts.slice(0, 5)]) {
      const answer = await client.embeddings.create({ model, input: text });
      assert.equal(answer.data.length, 1);
      sameVector(answer.data[0].embedding, text);
    }
  });

  check(name("encoding_format float"), async () => {
    const answer = await client.embeddings.create({ model, input: cold, encoding_format: "float" });
    sameVector(answer.data[0].embedding, cold);
  });

  check(name("encoding_format base64: the caller gets the text"), async () => {
    const answer = await client.embeddings.create({ model, input: cold, encoding_format: "base64" });
    const bytes = Buffer.from(answer.data[0].embedding, "base64");
    assert.equal(bytes.length, 4 * dimensions);
    sameVector(Array.from({ length: dimensions }, (_, index) => bytes.readFloatLE(4 * index)), cold);
  });

  check(name("token ids, one text and several"), async () => {
    const one = await client.embeddings.create({ model, input: coldIds });
    sameVectors(one.data.map((item) => item.embedding), [cold]);
    const two = await client.embeddings.create({ model, input: [coldIds, coldIds] });
    sameVectors(two.data.map((item) => item.embedding), [cold, cold]);
  });

  check(name("a lone surrogate in a text is accepted"), async () => {
    const answer = await client.embeddings.create({ model, input: "cut emoji \ud83d" });
    assert.equal(answer.data[0].embedding.length, dimensions);
  });

  check(name("models: list, and retrieve with a slash in the id too"), async () => {
    const ids = [];
    for await (const entry of client.models.list()) ids.push(entry.id);
    assert.ok(ids.includes(model), `${model} is not among ${ids}`);
    assert.equal((await client.models.retrieve(model)).id, model);
    assert.equal((await client.models.retrieve(hubId)).object, "model");
  });

  check(name("withResponse: request id and the model that answered"), async () => {
    const { data, response } = await client.embeddings.create({ model: alias, input: cold }).withResponse();
    sameVector(data.data[0].embedding, cold);
    assert.ok(response.headers.get("x-request-id"));
    assert.equal(response.headers.get("x-embedgate-model"), model);
  });

  check(name("errors: their classes, sent once"), async () => {
    const refused = async (arguments_, Kind, code) => {
      sent = 0;
      const thrown = await client.embeddings.create(arguments_).then(() => null, (error) => error);
      assert.ok(thrown instanceof Kind, String(thrown));
      assert.equal(thrown.code, code);
      assert.equal(sent, 1);
    };
    await refused({ model: "no/such-model", input: cold }, OpenAI.NotFoundError, "model_not_found");
    await refused({ model, input: ["a", ""] }, OpenAI.BadRequestError, null);
    await refused({ model, input: cold, dimensions: 7 }, OpenAI.BadRequestError, null);
  });
}

checkGuide("openai (Node)");

await run();
