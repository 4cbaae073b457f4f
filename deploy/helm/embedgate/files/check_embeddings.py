"""The check of `helm test`: one text must get a finite vector of unit length and the expected dimensions.

Environment: URL of the Service, MODEL, the expected DIMENSIONS, and KEYS_FILE if an API key is required.
"""

import json
import math
import os
import ssl
import urllib.request

body = {"model": os.environ["MODEL"], "input": "The food was delicious", "encoding_format": "float"}
request = urllib.request.Request(
    os.environ["URL"] + "/v1/embeddings",
    data=json.dumps(body).encode(),
    headers={"content-type": "application/json"},
)
if "KEYS_FILE" in os.environ:
    with open(os.environ["KEYS_FILE"], encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    first = next(line for line in lines if line and not line.startswith("#"))
    key = first.partition("=")[2].strip() or first  # `name=key` or `key`
    request.add_header("authorization", f"Bearer {key}")

# The certificate may be for another host name than the Service's.
context = ssl._create_unverified_context() if request.type == "https" else None
with urllib.request.urlopen(request, timeout=30, context=context) as response:
    answer = json.load(response)

vector = answer["data"][0]["embedding"]
length = math.sqrt(sum(value * value for value in vector))
assert len(vector) == int(os.environ["DIMENSIONS"]), f"{len(vector)} dimensions, expected {os.environ['DIMENSIONS']}"
assert all(math.isfinite(value) for value in vector), "a value is not finite"
assert abs(length - 1) < 1e-3, f"the vector has the length {length}, not 1"
assert answer["usage"]["prompt_tokens"] > 0, answer["usage"]
print(f"{answer['model']}: {len(vector)} dimensions, {answer['usage']['prompt_tokens']} tokens")
