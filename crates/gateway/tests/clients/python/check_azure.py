"""Azure OpenAI's clients: they put the deployment into the path, the version into the query, the key into `api-key`."""

import os

# Its price list would be fetched from the network when the module is loaded.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402  after the setting that it reads
from checks import ALIAS, API_KEY, BASE_URL, TEXTS, check, equal, run, same_vectors, tokens  # noqa: E402
from langchain_openai import AzureOpenAIEmbeddings  # noqa: E402
from llama_index.embeddings.azure_openai import AzureOpenAIEmbedding  # noqa: E402
from openai import AsyncAzureOpenAI, AzureOpenAI, DefaultHttpxClient, NotFoundError, OpenAI  # noqa: E402

litellm.suppress_debug_info = True

ENDPOINT = BASE_URL.removesuffix("/v1")
VERSION = "2024-10-21"
ARGUMENTS = {"azure_endpoint": ENDPOINT, "api_key": API_KEY, "api_version": VERSION}


def vectors(answer):
    return [item.embedding for item in answer.data]


@check("openai.AzureOpenAI: the model is the deployment")
def _():
    answer = AzureOpenAI(**ARGUMENTS).embeddings.create(model=ALIAS, input=TEXTS)
    same_vectors(vectors(answer), TEXTS)
    equal(answer.usage.prompt_tokens, tokens(TEXTS))


@check("openai.AzureOpenAI with azure_deployment")
def _():
    client = AzureOpenAI(**ARGUMENTS, azure_deployment=ALIAS)
    same_vectors(vectors(client.embeddings.create(model="any", input=TEXTS[:3])), TEXTS[:3])


@check("openai.AsyncAzureOpenAI")
async def _():
    answer = await AsyncAzureOpenAI(**ARGUMENTS).embeddings.create(model=ALIAS, input=TEXTS[:3])
    same_vectors(vectors(answer), TEXTS[:3])


@check("openai.AzureOpenAI, unknown deployment: NotFoundError")
def _():
    try:
        AzureOpenAI(**ARGUMENTS).embeddings.create(model="no-such-deployment", input="a")
    except NotFoundError as error:
        equal(error.code, "model_not_found")
    else:
        raise AssertionError("nothing was raised")


@check("openai.OpenAI with Azure's /openai/v1")
def _():
    client = OpenAI(base_url=f"{ENDPOINT}/openai/v1/", api_key=API_KEY)
    same_vectors(vectors(client.embeddings.create(model=ALIAS, input=TEXTS)), TEXTS)
    assert ALIAS in [model.id for model in client.models.list()]


@check("openai.AzureOpenAI: models.list, models.retrieve")
def _():
    client = AzureOpenAI(**ARGUMENTS)
    assert ALIAS in [model.id for model in client.models.list()]
    equal(client.models.retrieve(ALIAS).id, ALIAS)


@check("openai.AzureOpenAI with azure_ad_token: sent as a bearer token")
def _():
    requests = []
    client = AzureOpenAI(
        azure_endpoint=ENDPOINT,
        azure_ad_token=API_KEY,
        api_version=VERSION,
        http_client=DefaultHttpxClient(event_hooks={"request": [requests.append]}),
    )
    same_vectors(vectors(client.embeddings.create(model=ALIAS, input=TEXTS[:3])), TEXTS[:3])
    equal(requests[0].headers["authorization"], f"Bearer {API_KEY}")


@check("langchain_openai.AzureOpenAIEmbeddings")
def _():
    embeddings = AzureOpenAIEmbeddings(**ARGUMENTS, model=ALIAS, check_embedding_ctx_length=False)
    same_vectors(embeddings.embed_documents(TEXTS), TEXTS)


@check("llama_index AzureOpenAIEmbedding")
def _():
    embedding = AzureOpenAIEmbedding(model=ALIAS, deployment_name=ALIAS, **ARGUMENTS)
    same_vectors(embedding.get_text_embedding_batch(TEXTS), TEXTS)


@check("litellm azure/")
def _():
    answer = litellm.embedding(
        model=f"azure/{ALIAS}", input=TEXTS, api_base=ENDPOINT, api_key=API_KEY, api_version=VERSION
    )
    same_vectors([item["embedding"] for item in answer.data], TEXTS)


run()
