"""Clients of rerankers: Cohere's SDK, LangChain, LlamaIndex and LiteLLM, with a tiny cross-encoder whose scores are known."""

import os

# Its price list would be fetched from the network when the module is loaded.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import cohere  # noqa: E402  after the setting that litellm reads
import litellm  # noqa: E402
from checks import API_KEY, BASE_URL, check, equal, run  # noqa: E402
from langchain_cohere import CohereRerank as LangChainCohereRerank  # noqa: E402
from langchain_core.documents import Document  # noqa: E402
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # noqa: E402
from llama_index.postprocessor.cohere_rerank import CohereRerank  # noqa: E402
from llama_index.postprocessor.jinaai_rerank import JinaRerank  # noqa: E402
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference  # noqa: E402
from rerank_reference import DOCUMENTS, MODEL, QUERY, TOKENS, same_ranking  # noqa: E402

litellm.suppress_debug_info = True

ORIGIN = BASE_URL.removesuffix("/v1")


def nodes():
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


def node_ranking(found):
    return [(DOCUMENTS.index(node.node.get_content()), node.score) for node in found]


@check("cohere ClientV2.rerank: results and meta")
def _():
    client = cohere.ClientV2(api_key=API_KEY, base_url=ORIGIN)
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)
    same_ranking((result.index, result.relevance_score) for result in answer.results)
    equal(answer.meta.tokens.input_tokens, TOKENS)


@check("cohere Client.rerank (v1): top_n, return_documents, documents as objects")
def _():
    client = cohere.Client(api_key=API_KEY, base_url=ORIGIN)
    documents = [{"text": text} for text in DOCUMENTS]
    answer = client.rerank(model=MODEL, query=QUERY, documents=documents, top_n=1, return_documents=True)
    same_ranking(((result.index, result.relevance_score) for result in answer.results), 1)
    equal(answer.results[0].document.text, DOCUMENTS[answer.results[0].index])


@check("cohere AsyncClientV2.rerank")
async def _():
    client = cohere.AsyncClientV2(api_key=API_KEY, base_url=ORIGIN)
    answer = await client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=1)
    same_ranking(((result.index, result.relevance_score) for result in answer.results), 1)


@check("cohere: an unknown model is a NotFoundError with the message")
def _():
    client = cohere.ClientV2(api_key=API_KEY, base_url=ORIGIN)
    try:
        client.rerank(model="no-such-model", query=QUERY, documents=DOCUMENTS)
    except cohere.errors.NotFoundError as error:
        assert "does not exist" in str(error.body), error.body
    else:
        raise AssertionError("nothing was raised")


@check("langchain-cohere CohereRerank: compress_documents")
def _():
    reranker = LangChainCohereRerank(
        model=MODEL, cohere_api_key=API_KEY, base_url=ORIGIN, top_n=len(DOCUMENTS)
    )
    found = reranker.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    same_ranking((DOCUMENTS.index(item.page_content), item.metadata["relevance_score"]) for item in found)


@check("llama-index CohereRerank")
def _():
    reranker = CohereRerank(model=MODEL, api_key=API_KEY, base_url=ORIGIN, top_n=len(DOCUMENTS))
    found = reranker.postprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    same_ranking(node_ranking(found))


@check("llama-index JinaRerank")
def _():
    reranker = JinaRerank(model=MODEL, api_key=API_KEY, base_url=BASE_URL, top_n=len(DOCUMENTS))
    found = reranker.postprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    same_ranking(node_ranking(found))


@check("llama-index TextEmbeddingInference, with a key")
def _():
    reranker = TextEmbeddingInference(base_url=ORIGIN, auth_token=f"Bearer {API_KEY}", top_n=len(DOCUMENTS))
    found = reranker.postprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    same_ranking(node_ranking(found))


for provider, base in [("cohere", ORIGIN), ("jina_ai", BASE_URL), ("hosted_vllm", BASE_URL)]:

    @check(f"litellm.rerank, {provider}/")
    def _(provider=provider, base=base):
        answer = litellm.rerank(
            model=f"{provider}/{MODEL}",
            query=QUERY,
            documents=DOCUMENTS,
            top_n=len(DOCUMENTS),
            api_base=base,
            api_key=API_KEY,
        )
        same_ranking((result["index"], result["relevance_score"]) for result in answer.results)



@check("litellm.rerank, infinity/: without documents in the response")
def _():
    # LiteLLM sends what it sends to Cohere, and requires documents as strings, not as Cohere's objects.
    for base in [ORIGIN, BASE_URL]:
        answer = litellm.rerank(
            model=f"infinity/{MODEL}",
            query=QUERY,
            documents=DOCUMENTS,
            return_documents=False,
            api_base=base,
            api_key=API_KEY,
        )
        same_ranking((result["index"], result["relevance_score"]) for result in answer.results)


run()
