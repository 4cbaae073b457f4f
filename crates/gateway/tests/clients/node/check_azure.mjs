// Azure's class of OpenAI's npm SDK: the deployment in the path, the version in the query, the key in `api-key`.

import assert from "node:assert/strict";

import { AzureOpenAI as Azure7 } from "openai";
import { AzureOpenAI as Azure4 } from "openai-4";

import { alias, apiKey, baseURL, check, run, sameVectors, texts } from "./checks.mjs";

const endpoint = baseURL.replace(/\/v1$/, "");

for (const [version, AzureOpenAI] of [["4.104.0", Azure4], ["7.57.0", Azure7]]) {
  const options = { endpoint, apiKey, apiVersion: "2024-10-21" };

  check(`${version}: the model is the deployment`, async () => {
    const answer = await new AzureOpenAI(options).embeddings.create({ model: alias, input: texts });
    sameVectors(answer.data.map((item) => item.embedding), texts);
  });

  check(`${version}: a deployment for all requests`, async () => {
    const client = new AzureOpenAI({ ...options, deployment: alias });
    const answer = await client.embeddings.create({ model: "any", input: texts.slice(0, 3) });
    sameVectors(answer.data.map((item) => item.embedding), texts.slice(0, 3));
  });

  check(`${version}: an unknown deployment is a 404`, async () => {
    const call = new AzureOpenAI(options).embeddings.create({ model: "no-such-deployment", input: "a" });
    await assert.rejects(call, (error) => error.status === 404 && error.code === "model_not_found");
  });
}

await run();
