"""The words of a caption that GroupViT prompts with: nouns and verbs, tagged offline."""

import warnings
from functools import lru_cache
from typing import Any

TAGS = frozenset({"NN", "NNS", "NNP", "VBG", "VB", "VBD", "VBN", "VBP", "VBZ"})
"""Penn tags of the words that may be drawn (GroupViT, sec. 3.2; verbs as in its release)."""


@lru_cache(maxsize=1)
def _tagger() -> Any:
    from textblob.taggers import PatternTagger  # seconds, which not every command needs

    tagger = PatternTagger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its lexicon open
        tagger.tag("a")  # reads it
    return tagger


@lru_cache(maxsize=1 << 14)
def caption_words(caption: str) -> tuple[str, ...]:
    """Nouns and verbs of a caption, in order, repeated words kept.

    Departs from the release, which tags with NLTK and data to be downloaded: the tagger here ships
    inside a library.
    """
    return tuple(word for word, tag in _tagger().tag(caption) if tag in TAGS)
