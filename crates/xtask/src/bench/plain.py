"""A plain onnxruntime loop: tokenize, pad, run, mean-pool, normalise; prints its timings as JSON."""

import json
import sys
import time

import numpy
import onnxruntime
from tokenizers import Tokenizer

model, texts, batch = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8")), int(sys.argv[3])
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(f"{model}/embedgate.onnx", providers=["CPUExecutionProvider"])


def embed(texts):
    encoded = tokenizer.encode_batch(texts)
    ids = numpy.array([text.ids for text in encoded], dtype=numpy.int64)
    mask = numpy.array([text.attention_mask for text in encoded], dtype=numpy.int64)
    hidden = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]
    weights = mask[:, :, None].astype(numpy.float32)
    pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return pooled / numpy.linalg.norm(pooled, axis=1, keepdims=True)


batches = [texts[start : start + batch] for start in range(0, len(texts), batch)]
for texts in batches[: max(1, 50 // batch)]:
    embed(texts)
milliseconds = []
started = time.perf_counter()
for texts in batches:
    begun = time.perf_counter()
    embed(texts)
    milliseconds.append((time.perf_counter() - begun) * 1e3)
print(json.dumps({"seconds": time.perf_counter() - started, "milliseconds": milliseconds}))
