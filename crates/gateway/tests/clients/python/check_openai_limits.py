"""OpenAI's own Python SDK before a server with keys and limits: which exception says what, what is tried again, and what
is counted as usage.

The server knows the keys `sk-patient` and `sk-hasty`, lets each of them send six requests a minute, and has the admin key
`sk-operator`.
"""

import time

import openai
from checks import BASE_URL, MODEL, check, equal, run


def client(key, retries):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=retries)


@check("a wrong key: AuthenticationError, which shows no more of the key than its ends")
def _():
    try:
        client("sk-wrong-0123456789abcdef", 0).embeddings.create(model=MODEL, input="a")
    except openai.AuthenticationError as error:
        equal((error.status_code, error.code, error.type), (401, "invalid_api_key", "invalid_request_error"))
        equal("0123456789" in str(error), False)
        return
    raise AssertionError("nothing was raised")


@check("a used-up minute: RateLimitError with the headers that say how much is left and when to come back")
def _():
    hasty = client("sk-hasty", 0)
    for left in range(5, -1, -1):
        answer = hasty.embeddings.with_raw_response.create(model=MODEL, input="a")
        equal(answer.headers["x-ratelimit-remaining-requests"], str(left))
        equal(answer.headers["x-ratelimit-limit-requests"], "6")
    try:
        hasty.embeddings.create(model=MODEL, input="a")
    except openai.RateLimitError as error:
        equal((error.status_code, error.code, error.type), (429, "rate_limit_exceeded", "requests"))
        equal(error.response.headers["x-ratelimit-remaining-requests"], "0")
        wait = int(error.response.headers["retry-after-ms"])
        equal(0 < wait <= 10_000, True)
        return
    raise AssertionError("nothing was raised")


@check("the SDK's own retry waits as long as it was told, and then is answered")
def _():
    patient = client("sk-patient", 1)
    for _ in range(6):
        patient.embeddings.create(model=MODEL, input="a")
    start = time.monotonic()
    patient.embeddings.create(model=MODEL, input="a")
    equal(5 < time.monotonic() - start < 30, True)


@check("the SDK reads the usage of both keys, without rejected requests")
def _():
    operator = openai.OpenAI(base_url=BASE_URL, api_key="sk-operator", admin_api_key="sk-operator")
    page = operator.admin.organization.usage.embeddings(
        start_time=int(time.time()) - 600,
        bucket_width="1m",
        group_by=["api_key_id", "model"],
        api_key_ids=["patient", "hasty"],
    )
    equal((page.object, page.has_more, page.next_page), ("page", False, None))
    requests, tokens = {}, {}
    for result in (result for bucket in page.data for result in bucket.results):
        equal((result.object, result.model), ("organization.usage.embeddings.result", MODEL))
        requests[result.api_key_id] = requests.get(result.api_key_id, 0) + result.num_model_requests
        tokens[result.api_key_id] = tokens.get(result.api_key_id, 0) + result.input_tokens
    equal(requests, {"hasty": 6, "patient": 7})
    # Each text is one token between the two special ones.
    equal(tokens, {"hasty": 18, "patient": 21})


run()
