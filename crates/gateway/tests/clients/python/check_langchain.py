"""LangChain's OpenAIEmbeddings with its defaults, which send cl100k token ids whatever the model.

Its tokenizer would download the vocabulary. The genuine file ships with LiteLLM, under the name by which
tiktoken looks for it.
"""

import hashlib
import importlib.util
import os
from pathlib import Path

from checks import (
    ALIAS,
    API_KEY,
    BASE_URL,
    HUB_ID,
    MODEL,
    TEXTS,
    check,
    check_guide,
    equal,
    run,
    same_vector,
    same_vectors,
)

_litellm = Path(importlib.util.find_spec("litellm").origin).parent
_cache = _litellm / "litellm_core_utils" / "tokenizers"
_vocabulary = _cache / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
os.environ["TIKTOKEN_CACHE_DIR"] = str(_cache)

from langchain_openai import OpenAIEmbeddings  # noqa: E402  after the setting that it reads


def embeddings(**options):
    return OpenAIEmbeddings(**{"model": ALIAS, "base_url": BASE_URL, "api_key": API_KEY, **options})


@check("the vocabulary is OpenAI's own cl100k_base")
def _():
    equal(
        hashlib.sha256(_vocabulary.read_bytes()).hexdigest(),
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    )


@check("defaults: documents, whose vectors are those of the plain texts")
def _():
    same_vectors(embeddings().embed_documents(TEXTS), TEXTS)


@check("defaults: queries, one by one")
def _():
    for text in TEXTS[:6]:
        same_vector(embeddings().embed_query(text), text)


@check("defaults: an empty document among others")
def _():
    texts = [TEXTS[0], "", TEXTS[1]]
    same_vectors(embeddings().embed_documents(texts), texts)


@check("defaults: the model's own name and its hub id")
def _():
    for model in [MODEL, HUB_ID]:
        same_vectors(embeddings(model=model).embed_documents(TEXTS[:3]), TEXTS[:3])


@check("defaults, asynchronous")
async def _():
    same_vectors(await embeddings().aembed_documents(TEXTS), TEXTS)


@check("check_embedding_ctx_length off: plain texts")
def _():
    plain = embeddings(check_embedding_ctx_length=False)
    same_vectors(plain.embed_documents(TEXTS), TEXTS)
    same_vector(plain.embed_query(TEXTS[4]), TEXTS[4])


@check("1,500 documents, which LangChain splits over two requests")
def _():
    texts = [TEXTS[number % 5] for number in range(1500)]
    same_vectors(embeddings().embed_documents(texts), texts)


check_guide("langchain-openai (Python)")

run()
