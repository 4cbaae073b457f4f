"""OpenAI's own Python SDK, in each of its three majors."""

import asyncio
import base64
import json
import struct

import openai
from checks import (
    ALIAS,
    API_KEY,
    BASE_URL,
    DIMENSIONS,
    HUB_ID,
    MODEL,
    TEXTS,
    check,
    check_guide,
    equal,
    run,
    same_vector,
    same_vectors,
    tokens,
)

print(f"# openai {openai.__version__}")

# cl100k_base ids, as `tiktoken` yields them.
CHILLY = "I feel extremely chilly"
CHILLY_IDS = [40, 2733, 9193, 81975]
COLD = "I am so cold"
COLD_IDS = [40, 1097, 779, 9439]

requests = []
client = openai.OpenAI(
    base_url=BASE_URL,
    api_key=API_KEY,
    http_client=openai.DefaultHttpxClient(event_hooks={"request": [requests.append]}),
)


def wire(**arguments):
    """The answer's body as it came over the wire."""
    response = client.embeddings.with_raw_response.create(**arguments)
    return json.loads(response.text() if callable(response.text) else response.text)


def refused(error, function):
    """`function` raises exactly `error`; yields the exception and the number of requests that were sent."""
    before = len(requests)
    try:
        function()
    except openai.APIStatusError as raised:
        equal(type(raised), error)
        return raised, len(requests) - before
    raise AssertionError("nothing was raised")


@check("list of texts with the SDK's defaults: vectors, order, usage")
def _():
    answer = client.embeddings.create(model=ALIAS, input=TEXTS)
    same_vectors([item.embedding for item in answer.data], TEXTS)
    equal([item.index for item in answer.data], list(range(len(TEXTS))))
    equal((answer.object, answer.model, answer.data[0].object), ("list", ALIAS, "embedding"))
    equal((answer.usage.prompt_tokens, answer.usage.total_tokens), (tokens(TEXTS), tokens(TEXTS)))


@check("one bare text at a time, the empty one included")
def _():
    for text in ["", *TEXTS]:
        answer = client.embeddings.create(model=MODEL, input=text)
        same_vectors([item.embedding for item in answer.data], [text])
        equal(answer.usage.prompt_tokens, tokens([text]))


@check("the SDK's default asks for base64 and gets base64")
def _():
    embedding = wire(model=MODEL, input=COLD)["data"][0]["embedding"]
    raw = base64.b64decode(embedding, validate=True)
    same_vector(struct.unpack(f"<{DIMENSIONS}f", raw), COLD)


@check("encoding_format float: numbers on the wire, equal to base64 to the last bit")
def _():
    floats = wire(model=MODEL, input=COLD, encoding_format="float")["data"][0]["embedding"]
    same_vector(floats, COLD)
    packed = base64.b64decode(wire(model=MODEL, input=COLD)["data"][0]["embedding"])
    equal(struct.pack(f"<{DIMENSIONS}f", *floats), packed)


@check("encoding_format base64: the caller gets the text")
def _():
    answer = client.embeddings.create(model=MODEL, input=[COLD], encoding_format="base64")
    same_vector(struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(answer.data[0].embedding)), COLD)


@check("token ids of one text")
def _():
    answer = client.embeddings.create(model=MODEL, input=CHILLY_IDS)
    same_vectors([item.embedding for item in answer.data], [CHILLY])
    equal(answer.usage.prompt_tokens, tokens([CHILLY]))


@check("token ids of several texts")
def _():
    answer = client.embeddings.create(model=MODEL, input=[CHILLY_IDS, COLD_IDS])
    same_vectors([item.embedding for item in answer.data], [CHILLY, COLD])


@check("optional fields: None, the model's own dimensions, user, unknown ones")
def _():
    for extra in [
        {"dimensions": None, "user": None},
        {"dimensions": DIMENSIONS, "user": "someone"},
        {"extra_body": {"input_type": "query", "truncate": "END"}},
    ]:
        answer = client.embeddings.create(model=MODEL, input=COLD, **extra)
        same_vector(answer.data[0].embedding, COLD)


@check("parameters of other vendors: ignored by name, or rejected")
def _():
    response = client.embeddings.with_raw_response.create(
        model=f"openai/{ALIAS.upper()}", input=COLD, extra_body={"input_type": "query"}
    )
    equal(response.headers.get("x-embedgate-ignored"), "input_type")
    same_vector(response.parse().data[0].embedding, COLD)
    error, sent = refused(
        openai.BadRequestError,
        lambda: client.embeddings.create(model=MODEL, input=COLD, extra_body={"output_dtype": "int4"}),
    )
    equal((error.param, sent), ("output_dtype", 1))


@check("base URL without /v1")
def _():
    plain = openai.OpenAI(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY)
    same_vector(plain.embeddings.create(model=MODEL, input=COLD).data[0].embedding, COLD)


@check("asynchronous client: 32 requests at once, no answer mixed up")
async def _():
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as aio:

        async def one(number):
            texts = [TEXTS[(number + step) % len(TEXTS)] for step in range(1 + number % 3)]
            answer = await aio.embeddings.create(
                model=MODEL, input=texts, **({"encoding_format": "float"} if number % 2 else {})
            )
            same_vectors([item.embedding for item in answer.data], texts)

        await asyncio.gather(*(one(number) for number in range(32)))


@check("models: list")
def _():
    models = list(client.models.list())
    found = {model.id: model for model in models}
    if MODEL not in found:
        raise AssertionError(f"{MODEL} is not among {sorted(found)}")
    for model in models:
        equal((model.object, type(model.created), type(model.owned_by)), ("model", int, str))


@check("models: retrieve, with a slash in the id too")
def _():
    equal(client.models.retrieve(MODEL).id, MODEL)
    equal(client.models.retrieve(HUB_ID).object, "model")


@check("raw response: request id and the model that answered")
def _():
    response = client.embeddings.with_raw_response.create(model=ALIAS, input=COLD)
    if not response.headers.get("x-request-id"):
        raise AssertionError(f"no x-request-id among {dict(response.headers)}")
    equal(response.headers.get("x-embedgate-model"), MODEL)
    equal(response.headers["content-type"].split(";")[0], "application/json")
    same_vector(response.parse().data[0].embedding, COLD)


@check("unknown model: NotFoundError with OpenAI's code, sent once")
def _():
    error, sent = refused(
        openai.NotFoundError, lambda: client.embeddings.create(model="no/such-model", input=COLD)
    )
    equal((error.status_code, error.code, error.type), (404, "model_not_found", "invalid_request_error"))
    if not error.request_id:
        raise AssertionError("no request id on the exception")
    equal(sent, 1)
    refused(openai.NotFoundError, lambda: client.models.retrieve("no/such-model"))


@check("bad requests: BadRequestError, sent once")
def _():
    for arguments, message in [
        ({"input": []}, "empty array"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[200_000]]}, ""),
        ({"input": COLD, "dimensions": DIMENSIONS // 2}, "dimensions"),
        ({"input": COLD, "dimensions": DIMENSIONS * 2}, "dimensions"),
        ({"input": COLD, "encoding_format": "hex"}, "encoding_format"),
        ({"input": ["a"] * 2049}, "2048"),
    ]:
        error, sent = refused(
            openai.BadRequestError,
            lambda: client.embeddings.create(**{"model": MODEL, **arguments}),
        )
        equal((error.status_code, error.type, sent), (400, "invalid_request_error", 1))
        if message not in error.message:
            raise AssertionError(f"{message!r} is not in {error.message!r}")


@check("2048 texts in one request")
def _():
    texts = [TEXTS[number % 4] for number in range(2048)]
    answer = client.embeddings.create(model=MODEL, input=texts)
    same_vectors([item.embedding for item in answer.data], texts)


check_guide("openai (Python)")

run()
