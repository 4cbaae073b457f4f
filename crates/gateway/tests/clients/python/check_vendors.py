"""The clients of other vendors' APIs, each pointed at the server by its address alone: Cohere, Ollama, Voyage."""

import math

import cohere
import numpy
import ollama
import voyageai
from checks import API_KEY, BASE_URL, DIMENSIONS, MODEL, TEXTS, check, equal, run, same_vector, same_vectors, tokens

HOST = BASE_URL.removesuffix("/v1")

co = cohere.ClientV2(api_key=API_KEY, base_url=HOST)
co1 = cohere.Client(api_key=API_KEY, base_url=HOST)
llama = ollama.Client(host=HOST)
voyage = voyageai.Client(api_key=API_KEY, base_url=BASE_URL)


def quantized(kind, vectors):
    """`quantize_embeddings` of sentence-transformers, with the fixed ranges of docs/apis.md."""
    vectors = numpy.array(vectors, dtype=numpy.float32)
    if kind in ("binary", "ubinary"):
        bits = numpy.packbits(vectors > 0, axis=-1)
        return (bits if kind == "ubinary" else (bits.astype(numpy.int16) - 128).astype(numpy.int8)).tolist()
    bound = numpy.float32(min(1, 9 / math.sqrt(DIMENSIONS)))
    steps = (vectors + bound) / (2 * bound / numpy.float32(255))
    if kind == "uint8":
        return numpy.clip(steps, 0, 255).astype(numpy.uint8).tolist()
    return numpy.clip(steps - 128, -128, 127).astype(numpy.int8).tolist()


def near(found, expected, tolerance):
    """The same integers, but for a step where the last bit of a float decides."""
    distance = numpy.abs(numpy.array(found, dtype=int) - numpy.array(expected, dtype=int)).max()
    if distance > tolerance:
        raise AssertionError(f"integers differ by {distance}")


@check("cohere ClientV2.embed: every type at a time")
def _():
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = co.embed(model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=kinds)
    same_vectors(answer.embeddings.float_, TEXTS)
    for kind in kinds[1:5]:
        near(getattr(answer.embeddings, kind), quantized(kind, answer.embeddings.float_), 1 if "int8" in kind else 0)
    equal(len(answer.embeddings.base64), len(TEXTS))
    equal(answer.meta.billed_units.input_tokens, tokens(TEXTS))


@check("int8 keeps the order of cosines")
def _():
    answer = co.embed(model=MODEL, texts=TEXTS, input_type="search_document", embedding_types=["float", "int8"])
    floats, bytes_ = numpy.array(answer.embeddings.float_), numpy.array(answer.embeddings.int8, dtype=float)
    cosines = (floats * bytes_).sum(1) / numpy.linalg.norm(bytes_, axis=1) / numpy.linalg.norm(floats, axis=1)
    # The formula drops fractions, which moves components by up to 1.5 steps.
    if cosines.min() < 0.998:
        raise AssertionError(f"cosine {cosines.min()} between a vector and its integers")
    print(f"# smallest cosine between a vector and its int8: {cosines.min():.6f}")


@check("cohere Client.embed: a plain list, in batches")
def _():
    texts = (TEXTS * 10)[:100]
    answer = co1.embed(model=MODEL, texts=texts, input_type="search_query")
    same_vectors(answer.embeddings, texts)


@check("cohere Client.embed: types")
def _():
    answer = co1.embed(model=MODEL, texts=TEXTS, input_type="search_query", embedding_types=["float", "ubinary"])
    same_vectors(answer.embeddings.float_, TEXTS)
    equal(len(answer.embeddings.ubinary[0]), DIMENSIONS // 8)


@check("cohere: errors")
def _():
    for model, kinds, error in [
        ("embed-v4.0", ["float"], cohere.NotFoundError),
        (MODEL, ["float16"], cohere.BadRequestError),
    ]:
        try:
            co.embed(model=model, texts=["a"], input_type="search_query", embedding_types=kinds)
        except error as raised:
            assert raised.body["message"], raised
        else:
            raise AssertionError(f"no {error}")


@check("ollama embed: one text and many")
def _():
    answer = llama.embed(model=MODEL, input=TEXTS, keep_alive="1m")
    same_vectors(answer.embeddings, TEXTS)
    equal(answer.prompt_eval_count, tokens(TEXTS))
    same_vector(llama.embed(model=f"{MODEL}:latest", input=TEXTS[0]).embeddings[0], TEXTS[0])


@check("ollama embeddings")
def _():
    same_vector(llama.embeddings(model=MODEL, prompt=TEXTS[0]).embedding, TEXTS[0])


@check("ollama list and show")
def _():
    assert f"{MODEL}:latest" in [model.model for model in llama.list().models]
    shown = llama.show(MODEL)
    equal(shown.modelinfo["embedgate.embedding_length"], DIMENSIONS)
    equal(shown.capabilities, ["embedding"])


@check("ollama: an unknown model is a ResponseError with 404")
def _():
    try:
        llama.embed(model="no-such-model", input="a")
    except ollama.ResponseError as error:
        equal(error.status_code, 404)
        assert "no-such-model" in error.error, error
    else:
        raise AssertionError("nothing was raised")


@check("voyageai embed")
def _():
    answer = voyage.embed(TEXTS, model=MODEL, input_type="document")
    same_vectors(answer.embeddings, TEXTS)
    equal(answer.total_tokens, tokens(TEXTS))


@check("voyageai embed: integers")
def _():
    floats = voyage.embed(TEXTS, model=MODEL).embeddings
    for kind in ["int8", "uint8", "binary", "ubinary"]:
        found = voyage.embed(TEXTS, model=MODEL, output_dtype=kind).embeddings
        near(found, quantized(kind, floats), 1 if "int8" in kind else 0)


run()
