"""LlamaIndex's two OpenAI embedding classes: its own, with OpenAI's model names, and the one for compatible servers."""

from checks import API_KEY, BASE_URL, HUB_ID, MODEL, TEXTS, check, check_guide, run, same_vector, same_vectors
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

openai = OpenAIEmbedding(api_base=BASE_URL, api_key=API_KEY)
like = OpenAILikeEmbedding(model_name=HUB_ID, api_base=BASE_URL, api_key=API_KEY, embed_batch_size=10)


@check("OpenAIEmbedding with its default model: query")
def _():
    for text in TEXTS[:4]:
        same_vector(openai.get_query_embedding(text), text)


@check("OpenAIEmbedding: batch")
def _():
    same_vectors(openai.get_text_embedding_batch(TEXTS), TEXTS)


@check("OpenAIEmbedding, asynchronous batch")
async def _():
    same_vectors(await openai.aget_text_embedding_batch(TEXTS), TEXTS)


@check("OpenAIEmbedding with the model's own name")
def _():
    own = OpenAIEmbedding(model_name=MODEL, api_base=BASE_URL, api_key=API_KEY)
    same_vectors(own.get_text_embedding_batch(TEXTS), TEXTS)


@check("OpenAILikeEmbedding: query")
def _():
    same_vector(like.get_query_embedding(TEXTS[4]), TEXTS[4])


@check("OpenAILikeEmbedding: several batches")
def _():
    same_vectors(like.get_text_embedding_batch(TEXTS), TEXTS)


check_guide("llama-index-embeddings-openai (Python)")
check_guide("llama-index-embeddings-openai-like (Python)")

run()
