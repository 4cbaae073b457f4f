// Vercel's AI SDK: it asks for numbers, and sends all its batches at once.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany } from "ai";

import { alias, apiKey, baseURL, check, checkGuide, hubId, run, sameVector, sameVectors, texts } from "./checks.mjs";

const model = (name) => createOpenAICompatible({ name: "embedgate", baseURL, apiKey }).embeddingModel(name);

check("one text", async () => {
  const { embedding } = await embed({ model: model(hubId), value: texts[4] });
  sameVector(embedding, texts[4]);
});

check("2,100 texts in two requests at once", async () => {
  const values = Array.from({ length: 2100 }, (_, index) => texts[index % 5]);
  const { embeddings } = await embedMany({ model: model(alias), values });
  sameVectors(embeddings, values);
});

checkGuide("ai, @ai-sdk/openai-compatible (Node)");

await run();
