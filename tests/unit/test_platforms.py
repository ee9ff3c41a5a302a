from __future__ import annotations

from itertools import combinations

import pytest
from packaging.markers import Marker, default_environment

from mlenv import platforms

EVERY = tuple(platforms.KNOWN)


def test_a_target_says_everything_that_a_marker_can_ask() -> None:
    assert platforms.environment("linux-x86_64", "3.11").keys() == default_environment().keys()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_marker_holds_on_the_chosen_platforms_alone(count: int) -> None:
    for chosen in combinations(EVERY, count):
        text = platforms.marker(chosen, among=EVERY)
        assert text is not None
        holding = [p for p in EVERY if Marker(text).evaluate({**platforms.environment(p, "3.11"), "extra": ""})]
        assert set(holding) == set(chosen), text


def test_no_marker_where_all_are_chosen_and_a_short_one_where_the_system_says_it() -> None:
    assert platforms.marker(EVERY, among=EVERY) is None
    assert platforms.marker(["windows-x86_64"], among=EVERY) == 'sys_platform == "win32"'
    assert platforms.marker(["linux-x86_64", "linux-aarch64"], among=EVERY) == 'sys_platform == "linux"'
