"""Clients of text-embeddings-inference: Hugging Face's InferenceClient and LlamaIndex."""

from checks import API_KEY, BASE_URL, MODEL, TEXTS, check, check_guide, run, same_vector, same_vectors
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

ORIGIN = BASE_URL.removesuffix("/v1")

client = InferenceClient(model=ORIGIN, token=API_KEY)
llama_index = TextEmbeddingsInference(model_name=MODEL, base_url=ORIGIN, auth_token=API_KEY)
# LlamaIndex removes white space at both ends, and an empty text among others is a 400.
STRIPPED = [text for text in TEXTS if text.strip()]


@check("huggingface_hub InferenceClient.feature_extraction: a list of texts, sent to the address alone")
def _():
    same_vectors(client.feature_extraction(TEXTS).tolist(), TEXTS)


@check("huggingface_hub: the same with /embed in the address, one text")
def _():
    found = InferenceClient(model=f"{ORIGIN}/embed", token=API_KEY).feature_extraction(TEXTS[4])
    same_vectors(found.tolist(), [TEXTS[4]])


@check("huggingface_hub: options")
def _():
    found = client.feature_extraction(TEXTS, normalize=True, truncate=True, truncation_direction="Right")
    same_vectors(found.tolist(), TEXTS)


@check("huggingface_hub AsyncInferenceClient")
async def _():
    async with AsyncInferenceClient(model=ORIGIN, token=API_KEY) as asynchronous:
        same_vectors((await asynchronous.feature_extraction(TEXTS)).tolist(), TEXTS)


@check("huggingface_hub: a rejected request is an HfHubHTTPError with the message")
def _():
    for inputs, message in [(["a", ""], "Invalid 'inputs[1]'"), ([], "Invalid 'inputs'")]:
        try:
            client.feature_extraction(inputs)
        except HfHubHTTPError as error:
            if message not in str(error):
                raise AssertionError(f"{message!r} is not in {error}") from error
        else:
            raise AssertionError("nothing was raised")


@check("llama-index TextEmbeddingsInference: batches")
def _():
    same_vectors(llama_index.get_text_embedding_batch(STRIPPED), STRIPPED)


@check("llama-index TextEmbeddingsInference: query, and asynchronous")
async def _():
    same_vector(llama_index.get_query_embedding(TEXTS[4]), TEXTS[4])
    same_vectors(await llama_index.aget_text_embedding_batch(STRIPPED), STRIPPED)


check_guide("huggingface_hub (Python)")
check_guide("llama-index-embeddings-text-embeddings-inference (Python)")

run()
