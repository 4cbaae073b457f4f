// LangChain.js: it joins lines, asks for base64 and sends all its batches at once.

import { OpenAIEmbeddings } from "@langchain/openai";

import { alias, apiKey, baseURL, check, checkGuide, hubId, run, sameVector, sameVectors, texts } from "./checks.mjs";

const embeddings = (options = {}) =>
  new OpenAIEmbeddings({ model: alias, apiKey, configuration: { baseURL }, ...options });

check("query", async () => {
  for (const text of texts.slice(0, 4)) sameVector(await embeddings().embedQuery(text), text);
});

check("documents", async () => {
  sameVectors(await embeddings().embedDocuments(texts), texts);
});

check("the model's hub id", async () => {
  sameVectors(await embeddings({ model: hubId }).embedDocuments(texts.slice(0, 3)), texts.slice(0, 3));
});

check("encodingFormat float", async () => {
  sameVectors(await embeddings({ encodingFormat: "float" }).embedDocuments(texts), texts);
});

check("1,200 documents in three batches at once", async () => {
  const many = Array.from({ length: 1200 }, (_, index) => texts[index % 5]);
  sameVectors(await embeddings().embedDocuments(many), many);
});

checkGuide("@langchain/openai (Node)");

await run();
