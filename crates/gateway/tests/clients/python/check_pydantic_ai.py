"""pydantic-ai's embedder, which sends all its texts in one request."""

from checks import ALIAS, API_KEY, BASE_URL, MODEL, TEXTS, check, check_guide, equal, run, same_vectors, tokens
from openai import AsyncOpenAI
from pydantic_ai import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.providers.openai import OpenAIProvider


def embedder(model):
    # A client for each check: the checks run in event loops of their own.
    client = AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY)
    return Embedder(OpenAIEmbeddingModel(model, provider=OpenAIProvider(openai_client=client)))


@check("documents, and usage")
async def _():
    result = await embedder(ALIAS).embed_documents(TEXTS)
    same_vectors(result.embeddings, TEXTS)
    equal(result.usage.input_tokens, tokens(TEXTS))


@check("query")
async def _():
    result = await embedder(MODEL).embed_query(TEXTS[4])
    same_vectors(result.embeddings, [TEXTS[4]])


check_guide("pydantic-ai (Python)")

run()
