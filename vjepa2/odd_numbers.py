"""How does JSON hold NaN and the infinities, of which it has none: as words, and back?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def spell_numbers(value: Any) -> Any:
    """The same with words for numbers that JSON has none of."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {name: spell_numbers(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [spell_numbers(item) for item in value]
    return value


def unspell_numbers(value: Any) -> Any:
    """What `spell_numbers` was given, of what JSON gave back."""
    if isinstance(value, dict):
        return {name: unspell_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [unspell_numbers(item) for item in value]
    return WORDS.get(value, value) if isinstance(value, str) else value
