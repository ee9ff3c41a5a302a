from example_texts import TEXTS, words


def test_words_are_lower_case() -> None:
    assert words("A lock, and An overlay.") == ["a", "lock", "and", "an", "overlay"]
    assert all(words(text) for text in TEXTS)
