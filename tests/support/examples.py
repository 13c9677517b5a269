"""How many examples a property test draws: as many times more as the chosen profile has more than hypothesis itself."""

from typing import Any

from hypothesis import settings

USUAL = settings.get_profile("default").max_examples  # 100


def examples(count: int, **changes: Any) -> settings:
    """Settings for `count` examples, and in the profile "long", of 2,000, for twenty times as many."""
    return settings(max_examples=count * settings.default.max_examples // USUAL, **changes)
