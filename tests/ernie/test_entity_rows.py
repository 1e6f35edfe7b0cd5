"""Identifiers that the table does not know: an error with a name, nothing, or a vector from their description."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from ernie import EntityRows, EntitySpan, EntityTable, ErnieTokenizer, InputError
from ernie.entity_rows import describe_by_words

KNOWN = {"Q1": 1, "Q2": 2}


def tokenizer(rows: Any) -> ErnieTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    return ErnieTokenizer(BertTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}), rows)


def table() -> EntityTable:
    return EntityTable(np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32))


def encoded(rows: Any) -> Any:
    return tokenizer(rows).encode(["a b c"], [[EntitySpan(0, 1, "Q1"), EntitySpan(4, 5, "Q77")]], max_length=9)[0]


def test_an_unknown_identifier_is_an_error_that_names_it() -> None:
    """Vectors of another graph give no error anywhere else: every entity is silently missing."""
    with pytest.raises(InputError, match=r"entity 'Q77' is not among the 2 of the table.*entity_fallback='zero'"):
        encoded(EntityRows(KNOWN))
    with pytest.raises(InputError, match="the nearest is 'Q1'"):
        EntityRows(KNOWN)["Q11"]


def test_zero_reads_the_text_without_it_and_counts_it() -> None:
    """As a plain mapping does, but with the names of what was missing."""
    rows = EntityRows(KNOWN, entity_fallback="zero")
    got, plain = encoded(rows), encoded(KNOWN)
    assert got.entity_ids.tolist() == plain.entity_ids.tolist() == [1]
    assert got.dropped == plain.dropped == {"unknown_entity": 1}
    assert rows.unknown == {"Q77": 1}


def test_a_described_entity_gets_a_row_of_its_own() -> None:
    """The same row each time it is met, past the rows of the file; one without a description is counted."""
    vectors = table()
    rows = EntityRows(
        KNOWN,
        entity_fallback="description",
        table=vectors,
        describe=lambda entity: np.array([3.0, 4.0]) if entity == "Q77" else None,
    )
    assert encoded(rows).entity_ids.tolist() == encoded(rows).entity_ids.tolist() == [1, 3]
    assert vectors.rows(torch.tensor([3, 2])).tolist() == [[3.0, 4.0], [0.0, 1.0]]
    assert rows["Q78"] == 0
    assert rows.unknown == {"Q78": 1}
    assert set(rows) == {"Q1", "Q2", "Q77"}
    assert len(rows) == 3
    assert "Q78" not in rows


def test_many_rows_are_appended_one_by_one() -> None:
    """Each as its own layer of lookups would end in Python's recursion limit."""
    vectors = table()
    firsts = [vectors.append(np.full((1, 2), n)) for n in range(3000)]
    assert firsts == list(range(3, 3003))
    assert vectors.append(np.ones((0, 2))) == 3003
    assert vectors.rows(torch.tensor([0, 1, 3, 3002]))[:, 0].tolist() == [0.0, 1.0, 0.0, 2999.0]
    for kind in ("zero", "shuffled"):
        controlled = vectors.controlled(kind)
        assert controlled.rows(torch.tensor([3002])).shape == (1, 2)
        with pytest.raises(InputError, match=f"{kind!r} already"):
            controlled.append(np.ones((1, 2)))
    with pytest.raises(InputError, match=r"\(n, 2\), got \(1, 3\)"):
        vectors.append(np.ones((1, 3)))


def test_descriptions_give_vectors_near_the_true_ones() -> None:
    """Where vectors are a function of the words, an unseen entity's is found: better than the mean, and as long."""
    generator = torch.Generator().manual_seed(0)
    words = torch.nn.Embedding(31, 12, _weight=torch.randn(31, 12, generator=generator))
    to_entity = torch.randn(12, 6, generator=generator)
    fast = tokenizer({}).fast_tokenizer
    drawn = np.random.default_rng(0)
    texts = {f"Q{n}": " ".join(drawn.choice(list(string.ascii_lowercase), size=5)) for n in range(1, 121)}
    ids = [fast(text, add_special_tokens=False)["input_ids"] for text in texts.values()]
    true = torch.stack([words.weight[torch.tensor(row)].mean(0).detach() @ to_entity for row in ids])
    vectors = EntityTable(torch.cat([torch.zeros(1, 6), true[:100]]))
    known = {f"Q{n}": n for n in range(1, 101)}
    common: dict[str, Any] = {"known": known, "table": vectors, "words": words, "tokenizer": fast}
    describe = describe_by_words(texts, **common, ridge=0.01)
    found = np.stack([describe(f"Q{n}") for n in range(101, 121)])
    cosine = torch.cosine_similarity(torch.from_numpy(found), true[100:], dim=-1)
    assert cosine.min() > 0.9
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), true[:100].norm(dim=1).mean().item(), rtol=1e-5)
    assert describe("Q999") is None
    with pytest.raises(InputError, match="at least 20, got 3"):
        describe_by_words({f"Q{n}": "a" for n in (1, 2, 3)}, **common)


def test_settings_that_cannot_work_are_refused() -> None:
    """A description fallback without a table would answer zero for ever."""
    with pytest.raises(InputError, match="error, zero, description, got 'none'"):
        EntityRows(KNOWN, entity_fallback="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the table"):
        EntityRows(KNOWN, entity_fallback="description")
