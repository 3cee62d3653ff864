"""JSON that nobody means, of words that readers look for."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def junk(words: Sequence[str], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return values of at most a dozen leaves: the words, small texts, and what all JSON has beside `leaves`."""
    word = st.sampled_from(words)
    return st.recursive(
        st.none() | st.booleans() | leaves | word | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=5),
        max_leaves=12,
    )
