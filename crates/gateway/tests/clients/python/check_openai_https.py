"""OpenAI's own Python SDK over https. The server's certificate comes from a private authority.

SSL_CERT_FILE names the certificate of that authority, as users of a private authority set it.
"""

import os
import ssl

import openai
from checks import API_KEY, BASE_URL, MODEL, TEXTS, check, equal, run, same_vector, same_vectors

AUTHORITY = os.environ["SSL_CERT_FILE"]


def client(context):
    return openai.OpenAI(
        base_url=BASE_URL, api_key=API_KEY, max_retries=0, http_client=openai.DefaultHttpxClient(verify=context)
    )


@check("the address is one of https")
def _():
    equal(BASE_URL.split(":")[0], "https")


@check("with SSL_CERT_FILE alone nothing else changes: vectors")
def _():
    answer = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0).embeddings.create(
        model=MODEL, input=TEXTS
    )
    same_vectors([one.embedding for one in answer.data], TEXTS)


@check("with the authority in a context of the client's own: a vector")
def _():
    trusting = client(ssl.create_default_context(cafile=AUTHORITY))
    same_vector(trusting.embeddings.create(model=MODEL, input=TEXTS[0]).data[0].embedding, TEXTS[0])


@check("without the authority: APIConnectionError, because of the certificate")
def _():
    # A context of its own knows no authority at all.
    stranger = client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        stranger.embeddings.create(model=MODEL, input="a")
    except openai.APIConnectionError as error:
        equal("certificate verify failed" in f"{error.__cause__}", True)
        return
    raise AssertionError("nothing was raised")


run()
