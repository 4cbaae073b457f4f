"""Haystack's text and document embedders, which ask for numbers and need the usage."""

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from checks import (  # noqa: E402
    ALIAS,
    API_KEY,
    BASE_URL,
    MODEL,
    TEXTS,
    check,
    check_guide,
    equal,
    run,
    same_vector,
    same_vectors,
    tokens,
)
from haystack import Document  # noqa: E402
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder  # noqa: E402
from haystack.utils import Secret  # noqa: E402

COMMON = {"api_base_url": BASE_URL, "api_key": Secret.from_token(API_KEY)}


@check("text embedder, and usage")
def _():
    embedder = OpenAITextEmbedder(model=ALIAS, **COMMON)
    for text in TEXTS[:4]:
        answer = embedder.run(text=text)
        same_vector(answer["embedding"], text)
        equal(answer["meta"]["usage"]["prompt_tokens"], tokens([text]))


@check("text embedder, asynchronous")
async def _():
    answer = await OpenAITextEmbedder(model=MODEL, **COMMON).run_async(text=TEXTS[4])
    same_vector(answer["embedding"], TEXTS[4])


@check("document embedder: several batches, each document with its own vector")
def _():
    documents = [Document(content=text) for text in TEXTS]
    embedder = OpenAIDocumentEmbedder(model=MODEL, batch_size=8, progress_bar=False, **COMMON)
    answer = embedder.run(documents=documents)
    equal([document.content for document in answer["documents"]], TEXTS)
    same_vectors([document.embedding for document in answer["documents"]], TEXTS)
    equal(answer["meta"]["usage"]["prompt_tokens"], tokens(TEXTS))


check_guide("haystack-ai (Python)")

run()
