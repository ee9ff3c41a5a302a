from __future__ import annotations

import pytest

from mlenv import wheelless


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("flash-attn", "build-against-foundation"),
        ("deepspeed", "build-against-foundation"),
        ("llama-cpp-python", "build"),
        ("pyyaml", "build"),
    ],
)
def test_the_setting_is_the_one_whose_build_can_work(name: str, setting: str) -> None:
    assert f'[tool.mlenv] {setting} = ["{name}"]' in wheelless.hint(name)


def test_what_needs_torch_to_say_what_it_requires_can_not_be_built_at_lock_time() -> None:
    assert "require a wheel, torch-scatter @ https://" in wheelless.hint_without_metadata("torch-scatter")
    assert wheelless.hint_without_metadata("pyyaml") == wheelless.hint("pyyaml")
