"""``python -m retrieval QUESTION``: ask the service without starting a server."""

import sys

from fastapi.testclient import TestClient

from retrieval import app

print(TestClient(app).get("/nearest", params={"question": " ".join(sys.argv[1:])}).json()["text"])
