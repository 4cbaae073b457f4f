"""The reference of the tiny cross-encoder, whose scores the clients of rerankers must get."""

import json

from checks import equal

MODEL = "ce-xlm-roberta"

with open(f"crates/model-import/tests/tiny-models/{MODEL}/reference.json", encoding="utf-8") as file:
    _reference = json.load(file)
_pairs = list(zip(_reference["pairs"], _reference["scores"], _reference["token_counts"]))
QUERY = _reference["pairs"][0][0]
# The SDKs leave out empty documents.
DOCUMENTS = [document for (query, document), *_ in _pairs if query == QUERY and document]
SCORES = [score for (query, document), score, _ in _pairs if query == QUERY and document]
TOKENS = sum(tokens for (query, document), _, tokens in _pairs if query == QUERY and document)


def near(found, expected):
    if not abs(found - expected) < 1e-5:
        raise AssertionError(f"found the score {found}, expected {expected}")


def same_ranking(results, top_n=len(DOCUMENTS)):
    """Index and score of each result, best first."""
    results = list(results)
    equal(len(results), top_n)
    best = sorted(range(len(DOCUMENTS)), key=lambda index: -SCORES[index])[:top_n]
    equal([index for index, _ in results], best)
    for index, score in results:
        near(score, SCORES[index])
