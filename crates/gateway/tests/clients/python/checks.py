"""The frame of the Python client checks: command line, Test Anything Protocol, reference vectors.

A script is started as `check_CLIENT.py BASE_URL REFERENCE LEAST_COSINE`, registers its checks with `@check` and ends with
`run()`. Each check prints one line; the exit status says whether all passed.
"""

import asyncio
import inspect
import json
import math
import sys
import traceback
from pathlib import Path

if len(sys.argv) != 4:
    sys.exit(f"usage: {sys.argv[0]} BASE_URL REFERENCE LEAST_COSINE")

BASE_URL = sys.argv[1]
LEAST_COSINE = float(sys.argv[3])  # what the precision that the server computes in allows
API_KEY = "any"  # a server without keys accepts every one

MODEL = "all-MiniLM-L6-v2"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
ALIAS = "text-embedding-3-small"
DIMENSIONS = 384

# sentence-transformers' own vectors in float32, one text at a time.
with open(sys.argv[2], encoding="utf-8") as file:
    _reference = json.load(file)
_VECTORS = dict(zip(_reference["texts"], _reference["vectors"]))
_TOKENS = dict(zip(_reference["texts"], _reference["token_counts"]))

# "" may stand alone but not in a list: OpenAI answers 400 there.
TEXTS = [text for text in _reference["texts"] if text]

# The address in documentation, in the place of the server's. Some clients take it without the path.
_ADDRESS = "http://127.0.0.1:8080"

_checks = []


def check(name):
    """Registers a function, plain or async, as the check called `name`."""

    def register(function):
        _checks.append((name, function))
        return function

    return register


def check_guide(client):
    """Registers a check that runs the block for `client` in docs/clients.md, whose `vectors` must be right."""
    page = Path(__file__).resolve().parents[5] / "docs/clients.md"

    @check(f"the lines of docs/clients.md: {client}")
    def _():
        _, _, section = page.read_text(encoding="utf-8").partition(f"\n### {client}\n")
        _, _, block = section.partition("```python\n")
        block, _, _ = block.partition("```\n")
        if _ADDRESS not in block:
            raise AssertionError(f"{page} has no block with {_ADDRESS} for {client}")
        names = {}
        exec(compile(block.replace(_ADDRESS, BASE_URL.removesuffix("/v1")), str(page), "exec"), names)
        same_vectors(names["vectors"], ["I am so cold", "I feel extremely chilly"])


def run():
    """Runs every check in order and exits."""
    failed = 0
    for number, (name, function) in enumerate(_checks, 1):
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {number} - {name}", flush=True)
            for line in traceback.format_exc().splitlines():
                print(f"# {line}", flush=True)
    print(f"1..{len(_checks)}", flush=True)
    sys.exit(1 if failed else 0)


def equal(found, expected):
    """`found == expected`, with both in the message."""
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def same_vector(vector, text):
    """The vector is sentence-transformers' vector of `text`, of unit length."""
    expected = _VECTORS[text]
    equal(len(vector), len(expected))
    norm = math.sqrt(sum(value * value for value in vector))
    if not abs(norm - 1) < 1e-4:
        raise AssertionError(f"the vector of {text[:40]!r} has length {norm}")
    # Both have length 1, so that the dot product is the cosine.
    cosine = sum(a * b for a, b in zip(vector, expected)) / norm
    if not cosine >= LEAST_COSINE:
        raise AssertionError(f"the vector of {text[:40]!r} has cosine {cosine} to the reference")


def same_vectors(vectors, texts):
    """One right vector per text, in the order of the texts."""
    equal(len(vectors), len(texts))
    for vector, text in zip(vectors, texts):
        same_vector(vector, text)


def tokens(texts):
    """The number of tokens that the model reads for these texts, special tokens and the window included."""
    return sum(_TOKENS[text] for text in texts)
