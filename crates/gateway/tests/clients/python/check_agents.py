"""Frameworks for agents that send OpenAI's `dimensions` unasked, or create a store of that size: agno, camel-ai, mem0ai.

BASE_URL is a server with the default settings, NATIVE_URL one with `native_dimensions`.
"""

import os
import tempfile

os.environ["MEM0_TELEMETRY"] = "False"
# mem0ai keeps its history there.
os.environ["MEM0_DIR"] = tempfile.mkdtemp()

from agno.knowledge.embedder.base import EmbeddingError  # noqa: E402  after the settings that mem0 reads
from agno.knowledge.embedder.openai import OpenAIEmbedder  # noqa: E402
from camel.embeddings import OpenAICompatibleEmbedding, OpenAIEmbedding  # noqa: E402
from camel.types import EmbeddingModelType  # noqa: E402
from checks import (  # noqa: E402
    ALIAS,
    API_KEY,
    BASE_URL,
    DIMENSIONS,
    MODEL,
    TEXTS,
    check,
    check_guide,
    equal,
    run,
    same_vector,
    same_vectors,
)
from mem0 import Memory  # noqa: E402
from mem0.configs.embeddings.base import BaseEmbedderConfig  # noqa: E402
from mem0.embeddings.openai import OpenAIEmbedding as Mem0Embedding  # noqa: E402
from openai import BadRequestError  # noqa: E402

NATIVE_URL = os.environ["NATIVE_URL"]
SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"


def rejected(function, error, size, name):
    """`function` raises `error`, whose text names the size, the real model, its size and the remedy."""
    try:
        function()
    except error as raised:
        for part in [
            f"'dimensions' = {size}",
            f"`{name}` stands for `{MODEL}` here, which has {DIMENSIONS} dimensions",
            f"leave 'dimensions' out, or send {DIMENSIONS}",
        ]:
            if part not in str(raised):
                raise AssertionError(f"{part!r} is not in {str(raised)!r}") from raised
    else:
        raise AssertionError("nothing was raised")


@check("agno, defaults: an error with the model, its size and the remedy")
def _():
    embedder = OpenAIEmbedder(base_url=BASE_URL, api_key=API_KEY)
    rejected(lambda: embedder.get_embedding(TEXTS[0]), EmbeddingError, 1536, SMALL)
    embedder = OpenAIEmbedder(id=LARGE, base_url=BASE_URL, api_key=API_KEY)
    rejected(lambda: embedder.get_embedding(TEXTS[0]), EmbeddingError, 3072, LARGE)


@check("agno, defaults, with native_dimensions: vectors of the model")
def _():
    for model in [SMALL, LARGE]:
        embedder = OpenAIEmbedder(id=model, base_url=NATIVE_URL, api_key=API_KEY)
        for text in TEXTS[:4]:
            same_vector(embedder.get_embedding(text), text)


@check("agno, with the model's size: asynchronous, in batches")
async def _():
    embedder = OpenAIEmbedder(dimensions=DIMENSIONS, base_url=BASE_URL, api_key=API_KEY)
    vectors, _ = await embedder.async_get_embeddings_batch_and_usage(TEXTS)
    same_vectors(vectors, TEXTS)


@check("camel OpenAIEmbedding, defaults: an error with the model, its size and the remedy")
def _():
    embedding = OpenAIEmbedding(url=BASE_URL, api_key=API_KEY)
    rejected(lambda: embedding.embed_list(TEXTS[:2]), BadRequestError, 1536, SMALL)


@check("camel OpenAIEmbedding, defaults, with native_dimensions: vectors of the model")
def _():
    for kind in [EmbeddingModelType.TEXT_EMBEDDING_3_SMALL, EmbeddingModelType.TEXT_EMBEDDING_3_LARGE]:
        embedding = OpenAIEmbedding(kind, url=NATIVE_URL, api_key=API_KEY)
        same_vectors(embedding.embed_list(TEXTS), TEXTS)


@check("camel OpenAICompatibleEmbedding: sends no dimensions, and finds the size")
def _():
    embedding = OpenAICompatibleEmbedding(ALIAS, url=BASE_URL, api_key=API_KEY)
    equal(embedding.get_output_dim(), DIMENSIONS)
    same_vectors(embedding.embed_list(TEXTS), TEXTS)


@check("mem0 with embedding_dims of OpenAI: an error with the remedy; with native_dimensions vectors of the model")
def _():
    def embedder(url):
        return Mem0Embedding(BaseEmbedderConfig(api_key=API_KEY, openai_base_url=url, embedding_dims=1536))

    rejected(lambda: embedder(BASE_URL).embed(TEXTS[0]), BadRequestError, 1536, SMALL)
    same_vectors(embedder(NATIVE_URL).embed_batch(TEXTS), TEXTS)


def memory(folder, **store):
    return Memory.from_config(
        {
            "embedder": {"provider": "openai", "config": {"api_key": API_KEY, "openai_base_url": BASE_URL}},
            "vector_store": {"provider": "qdrant", "config": {"path": folder, **store}},
            "llm": {"provider": "openai", "config": {"api_key": API_KEY, "openai_base_url": BASE_URL}},
            "history_db_path": f"{folder}/history.db",
        }
    )


@check("mem0's Memory: finds what was added, once its store has the model's size")
def _():
    with tempfile.TemporaryDirectory() as folder:
        kept = memory(folder, embedding_model_dims=DIMENSIONS)
        for text in ["I am so cold", "The food was delicious"]:
            kept.add(text, user_id="a", infer=False)
        found = kept.search("I feel extremely chilly", filters={"user_id": "a"})["results"]
        equal(found[0]["memory"], "I am so cold")


@check("mem0's Memory, defaults: a store of 1,536 numbers takes no shorter vector")
def _():
    with tempfile.TemporaryDirectory() as folder:
        try:
            memory(folder).add("I am so cold", user_id="a", infer=False)
        except Exception as error:
            if "384" not in str(error):
                raise AssertionError(f"384 is not in {error!r}") from error
        else:
            raise AssertionError("nothing was raised")


check_guide("agno (Python)")
check_guide("camel-ai (Python)")
check_guide("mem0ai (Python)")

run()
