"""A minimal server: sentence-transformers behind one FastAPI route with OpenAI's request and response.

Usage: fastapi_server.py MODEL_FOLDER PORT
"""

import base64
import sys
from typing import Literal

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

folder, port = sys.argv[1], int(sys.argv[2])
model = SentenceTransformer(folder, device="cpu")
app = FastAPI()


class Asked(BaseModel):
    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"


# `async`, so that requests take turns: with `def`, forty threads would fight over the cores.
@app.post("/v1/embeddings")
async def embeddings(asked: Asked):
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    if asked.encoding_format == "base64":
        written = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        written = vectors.tolist()
    tokens = sum(map(len, model.tokenizer(texts, truncation=True)["input_ids"]))
    return {
        "object": "list",
        "model": asked.model,
        "data": [{"object": "embedding", "index": i, "embedding": it} for i, it in enumerate(written)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
