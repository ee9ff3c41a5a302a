"""A service that finds the text which is nearest to a question."""

from __future__ import annotations

from example_texts import TEXTS, words
from fastapi import FastAPI
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.models import BoW

MODEL = SentenceTransformer(modules=[BoW(vocab=sorted({word for text in TEXTS for word in words(text)}))], device="cpu")
KNOWN = MODEL.encode(TEXTS)

app = FastAPI()


@app.get("/nearest")
def nearest(question: str) -> dict[str, str]:
    """The text whose words are most like the question's."""
    found = util.semantic_search(MODEL.encode([question]), KNOWN, top_k=1)[0][0]
    return {"text": TEXTS[int(found["corpus_id"])]}
