"""The reference is generated from the code; a stale one fails here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = generate.reference()
    for heading in ("mlenv foundation list", "mlenv fleet check"):
        assert f"### {heading}\n\n```text\nUsage: {heading} " in text
    assert "-h, --help" in text
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == text, "run: python docs/generate.py"
