"""LiteLLM, which names no encoding and so must get numbers, through the providers that people point at such a server."""

import os

# Its price list would be fetched from the network when the module is loaded.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402  after the setting that it reads
from checks import (  # noqa: E402
    ALIAS,
    API_KEY,
    BASE_URL,
    HUB_ID,
    TEXTS,
    check,
    check_guide,
    equal,
    run,
    same_vectors,
    tokens,
)

litellm.suppress_debug_info = True


def arguments(model, texts, **extra):
    return {"model": model, "input": texts, "api_base": BASE_URL, "api_key": API_KEY, **extra}


def vectors(answer):
    return [item["embedding"] for item in answer.data]


@check("openai/: list of texts, and usage")
def _():
    answer = litellm.embedding(**arguments(f"openai/{ALIAS}", TEXTS))
    same_vectors(vectors(answer), TEXTS)
    equal(answer.usage.prompt_tokens, tokens(TEXTS))


@check("openai/: one text, asynchronous")
async def _():
    answer = await litellm.aembedding(**arguments(f"openai/{HUB_ID}", TEXTS[4]))
    same_vectors(vectors(answer), [TEXTS[4]])


@check("openai/ with encoding_format float")
def _():
    answer = litellm.embedding(**arguments(f"openai/{ALIAS}", TEXTS[:3], encoding_format="float"))
    same_vectors(vectors(answer), TEXTS[:3])


for provider in ["hosted_vllm", "openai_like", "lm_studio", "litellm_proxy"]:

    @check(f"{provider}/: list of texts")
    def _(provider=provider):
        answer = litellm.embedding(**arguments(f"{provider}/{HUB_ID}", TEXTS))
        same_vectors(vectors(answer), TEXTS)


@check("unknown model: NotFoundError")
def _():
    try:
        litellm.embedding(**arguments("openai/no-such-model", TEXTS[:1]), max_retries=0)
    except litellm.NotFoundError as error:
        equal(error.status_code, 404)
    else:
        raise AssertionError("nothing was raised")


check_guide("litellm (Python)")

run()
