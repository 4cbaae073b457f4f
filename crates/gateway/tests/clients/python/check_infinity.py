"""infinity's own client, with a tiny cross-encoder whose scores are known."""

from checks import BASE_URL, check, equal, run
from infinity_client import Client
from infinity_client.api.default import rerank
from infinity_client.models import RerankInput
from infinity_client.models.re_rank_result_object import ReRankResultObject
from rerank_reference import DOCUMENTS, MODEL, QUERY, TOKENS, same_ranking

ORIGIN = BASE_URL.removesuffix("/v1")


def ranked(base_url, **options):
    client = Client(base_url=base_url, raise_on_unexpected_status=True)
    return rerank.sync(client=client, body=RerankInput(query=QUERY, documents=DOCUMENTS, **options))


@check("infinity_client rerank: results, usage and the kind of the object")
def _():
    for base_url in [ORIGIN, BASE_URL]:
        answer = ranked(base_url, model=MODEL)
        same_ranking((result.index, result.relevance_score) for result in answer.results)
        equal((answer.object_, answer.usage.prompt_tokens), (ReRankResultObject.RERANK, TOKENS))


@check("infinity_client rerank: no model, top_n, documents as strings")
def _():
    answer = ranked(ORIGIN, top_n=1, return_documents=True)
    same_ranking(((result.index, result.relevance_score) for result in answer.results), 1)
    equal((answer.model, answer.results[0].document), (MODEL, DOCUMENTS[answer.results[0].index]))


@check("infinity_client rerank: raw scores keep the order")
def _():
    answer = ranked(ORIGIN, raw_scores=True)
    order = [result.index for result in ranked(ORIGIN).results]
    equal([result.index for result in answer.results], order)
    equal(max(result.relevance_score for result in answer.results), answer.results[0].relevance_score)


run()
