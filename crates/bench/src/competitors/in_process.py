"""Measures a library in process, without a server.

Usage: in_process.py LIBRARY MODEL_FOLDER JOBS.json, with a LIBRARY of `main`

A job is {"id", "texts", "tokens", "seconds", "single", "batch", "encoder", "vectors"}: texts with their numbers of
tokens; `single` embeds them one at a time; `batch` fixes the batch size, otherwise the fastest of three is used;
`encoder` tokenizes before the clock starts; `vectors` measures nothing, and prints the vectors of each text alone, then
those of all in batches. Prints one line of JSON after the first text, one for each job, and one at the end.
"""

import contextlib
import json
import os
import resource
import sys
import tempfile
import time

MAX_TOKENS = 256  # The model's max_seq_length.
CHUNK = 4096  # Tokens of the texts that are sorted by length together.
BATCHES = (8, 16, 32)
# Texts that embedgate's int8 is calibrated with.
BUILTIN_TEXTS = os.path.join(os.path.dirname(__file__), "../../../gateway/src/load/builtin_texts.txt")
# Static quantization to int8 is calibrated with these texts and embedgate's: with these alone, its worst cosine to fp32
# was 0.689 instead of 0.914. The accuracy is measured on others.
CALIBRATION = [
    f"{subject} {verb} {place} {time}."
    for subject in ("A tall man in a red coat", "The committee on public works", "Her youngest daughter", "Every second engine")
    for verb in ("waited for the late train", "discussed the new budget", "sold three old paintings", "failed without a warning")
    for place in ("near the harbor", "in a crowded office", "at the edge of the forest", "under the bridge")
    for time in ("on Monday morning", "after the war")
]


class Onnx:
    """The imported graph in ONNX Runtime, fp32."""

    note = "fp32"

    def __init__(self, folder):
        self.tokenizer = load_tokenizer(folder, 1)
        self.session = self.load(f"{folder}/embedgate.onnx")

    def load(self, path):
        import onnxruntime

        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def encode(self, texts):
        return encode(self.tokenizer, texts)

    def single(self, encoded):
        return self.many([encoded])[0]

    def many(self, batches):
        vectors = []
        for ids, mask in batches:
            hidden = self.session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]
            vectors.append(pool(hidden, mask))
        return vectors


class OnnxInt8(Onnx):
    """The same graph after ONNX Runtime's dynamic quantization to signed int8."""

    def __init__(self, folder):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        super().__init__(folder)
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "int8.onnx")
            quantize_dynamic(f"{folder}/embedgate.onnx", path, weight_type=QuantType.QInt8)
            self.session = self.load(path)
        self.note = "int8 dynamic"


class OpenVino:
    """The imported graph in OpenVINO: one stream for one text, OpenVINO's choice of streams for many."""

    def __init__(self, folder):
        import openvino

        core = openvino.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.note = "bf16" if bf16 else "fp32 (this CPU has no bf16)"
        # Lengths in steps of eight: OpenVINO compiles kernels for each shape.
        self.tokenizer = load_tokenizer(folder, 8)
        model = self.convert(core.read_model(f"{folder}/embedgate.onnx"))

        def compiled(hint):
            settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
            return core.compile_model(model, "CPU", settings)

        self.one = compiled("LATENCY").create_infer_request()
        self.queue = openvino.AsyncInferQueue(compiled("THROUGHPUT"))
        self.queue.set_callback(self.keep)
        self.vectors = []

    def convert(self, model):
        return model

    def encode(self, texts):
        return encode(self.tokenizer, texts)

    def single(self, encoded):
        ids, mask = encoded
        return pool(self.one.infer({"input_ids": ids, "attention_mask": mask})[0], mask)

    def keep(self, request, batch):
        index, mask = batch
        self.vectors[index] = pool(request.get_output_tensor(0).data, mask)

    def many(self, batches):
        self.vectors.clear()
        for index, (ids, mask) in enumerate(batches):
            # Requests end in any order.
            self.vectors.append(None)
            self.queue.start_async({"input_ids": ids, "attention_mask": mask}, (index, mask))
        self.queue.wait_all()
        return self.vectors


class OpenVinoInt8(OpenVino):
    """The same graph after NNCF's static quantization to int8."""

    def __init__(self, folder):
        super().__init__(folder)
        self.note = "int8 static (NNCF)"

    def convert(self, model):
        def inputs(text):
            ids, mask = self.encode([text])
            return {"input_ids": ids, "attention_mask": mask}

        # NNCF logs and shows progress on standard output, which holds the results; its logger keeps the stream of its import.
        with contextlib.redirect_stdout(sys.stderr):
            import nncf

            with open(BUILTIN_TEXTS, encoding="utf-8") as file:
                texts = CALIBRATION + file.read().splitlines()
            dataset = nncf.Dataset(texts, inputs)
            model_type = nncf.ModelType.TRANSFORMER
            return nncf.quantize(model, dataset, model_type=model_type, subset_size=len(texts))


class OpenVinoInt8Weights(OpenVino):
    """The same graph after NNCF's compression of the weights to int8; OpenVINO quantizes activations at run time.

    With its defaults, which quantize them in groups on CPUs with VNNI or AMX.
    """

    def __init__(self, folder):
        super().__init__(folder)
        group = self.one.get_compiled_model().get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
        self.note = f"int8 weights (NNCF), activations in {self.note}, dynamic quantization group size {group}"

    def convert(self, model):
        with contextlib.redirect_stdout(sys.stderr):
            import nncf

            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


class SentenceTransformers:
    """sentence-transformers with torch, fp32."""

    note = "fp32"

    def __init__(self, folder):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(folder, device="cpu")

    def encode(self, texts):
        return texts  # The model's own `encode` tokenizes.

    def single(self, texts):
        return self.many([texts])[0]

    def many(self, batches):
        encode = self.model.encode
        return [encode(texts, batch_size=len(texts), show_progress_bar=False) for texts in batches]


class CrossEncoder(SentenceTransformers):
    """A cross-encoder of sentence-transformers with torch, fp32. Texts are a query, a tab and a passage.

    The vector of a text is its score. `predict` sorts the pairs by length, and computes them in batches of its default size.
    """

    def __init__(self, folder):
        from sentence_transformers import CrossEncoder as Model

        self.model = Model(folder, device="cpu")

    def many(self, batches):
        def scores(texts):
            pairs = [text.split("\t") for text in texts]
            return self.model.predict(pairs, show_progress_bar=False).reshape(-1, 1)

        return [scores(texts) for texts in batches]


def load_tokenizer(folder, step):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_to_multiple_of=step)
    return tokenizer


def encode(tokenizer, texts):
    import numpy

    encoded = tokenizer.encode_batch(texts)
    ids = numpy.array([text.ids for text in encoded], dtype=numpy.int64)
    return ids, numpy.array([text.attention_mask for text in encoded], dtype=numpy.int64)


def pool(hidden, mask):
    import numpy

    summed = numpy.einsum("bth,bt->bh", hidden, mask.astype(numpy.float32), optimize=True)
    return summed / numpy.linalg.norm(summed, axis=1, keepdims=True)


def vectors_of(library, job):
    """Each text alone, then all in batches of similar lengths, as they are measured."""
    texts = job["texts"]
    alone = [library.single(library.encode([text]))[0] for text in texts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches = batches_of([(texts[index], len(texts[index])) for index in order], BATCHES[1])
    sorted_vectors = [vector for batch in library.many(map(library.encode, batches)) for vector in batch]
    together = [vector for _, vector in sorted(zip(order, sorted_vectors), key=lambda pair: pair[0])]
    vectors = [vector.tolist() for vector in alone + together]
    return {"id": job["id"], "texts": len(texts), "tokens": 0, "seconds": 0, "milliseconds": [], "vectors": vectors}


def batches_of(chunk, size):
    """Batches of similar lengths, so that there is little padding."""
    texts = [text for text, _ in sorted(chunk, key=lambda pair: pair[1])]
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def best_batch(library, chunk):
    def seconds(size):
        batches = batches_of(chunk, size)
        library.many(map(library.encode, batches))  # Once to meet the shapes.
        started = time.perf_counter()
        library.many(map(library.encode, batches))
        return time.perf_counter() - started

    return min(BATCHES, key=seconds)


def chunks_of(pairs, tokens):
    chunks, room = [], 0
    for pair in pairs:
        if pair[1] > room:
            chunks.append([])
            room = tokens
        chunks[-1].append(pair)
        room -= pair[1]
    return chunks[:-1] or chunks  # The last may be nearly empty.


def measure(library, job):
    pairs = list(zip(job["texts"], job["tokens"]))
    if size := 1 if job["single"] else job["batch"]:
        chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    else:
        chunks = chunks_of(pairs, CHUNK)
        size = best_batch(library, chunks[-1])

    # Lazily: an asynchronous library computes while the next batch is tokenized.
    work = [batches_of(chunk, size) for chunk in chunks]
    encode = library.encode
    if job["encoder"]:
        work, encode = [list(map(encode, batches)) for batches in work], lambda encoded: encoded

    def embed(batches):
        if job["single"]:
            library.single(encode(batches[0]))
        else:
            library.many(map(encode, batches))

    for batches in work[-16:] if job["single"] else work[-1:]:
        embed(batches)
    texts = tokens = 0
    milliseconds = []
    cpu = time.process_time()
    started = time.perf_counter()
    while not texts or time.perf_counter() - started < job["seconds"]:
        at = len(milliseconds) % len(chunks)
        begun = time.perf_counter()
        embed(work[at])
        milliseconds.append((time.perf_counter() - begun) * 1e3)
        texts += len(chunks[at])
        tokens += sum(length for _, length in chunks[at])
    seconds = time.perf_counter() - started
    return {
        "id": job["id"],
        "texts": texts,
        "tokens": tokens,
        "seconds": seconds,
        "milliseconds": milliseconds if job["single"] else [],
        "cpu_seconds": time.process_time() - cpu,
        "batch": size,
    }


def say(**what):
    print(json.dumps(what), flush=True)


def main():
    kinds = {
        "onnxruntime": Onnx,
        "onnxruntime-int8": OnnxInt8,
        "openvino": OpenVino,
        "openvino-int8": OpenVinoInt8,
        "openvino-int8-weights": OpenVinoInt8Weights,
        "sentence-transformers": SentenceTransformers,
        "cross-encoder": CrossEncoder,
    }
    library = kinds[sys.argv[1]](sys.argv[2])
    library.single(library.encode(["the first query\tthe first text"]))
    say(ready=True, note=library.note)
    with open(sys.argv[3], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        say(**(vectors_of if job["vectors"] else measure)(library, job))
    # Kilobytes on Linux.
    say(peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


main()
