"""Judged links: drawn as they stand in the text, read back with their faults named, and what a linker learns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from entity_linking import calibrate, train
from entity_linking.annotate import LinkConfig, read_linked
from entity_linking.annotate import run as run_link
from entity_linking.calibrate import CalibrateConfig
from entity_linking.folder import score_for_precision
from entity_linking.judged import COLUMNS, read_judged
from entity_linking.linker import EntityLinker
from entity_linking.train import LinkTrainConfig
from entity_linking.views import SampleConfig, sample
from kg.artifact import open_artifact
from kg.errors import InputError


@pytest.fixture
def linked(bank_world: Path, bank_documents: Callable, tmp_path: Path) -> LinkConfig:
    """A corpus linked by a linker that no gold taught, every mention of it."""
    linker = train.run(
        LinkTrainConfig(graph=bank_world / "graph", vectors=bank_world / "vectors", output=tmp_path / "linker")
    )
    lines = [json.dumps({"id": f"d{n}", "text": d.text}) for n, d in enumerate(bank_documents(40, seed=2))]
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = LinkConfig(
        linker=linker, corpus="jsonl", source=str(tmp_path / "text.jsonl"), min_score=0.0, output=tmp_path / "linked"
    )
    run_link(config)
    return config


def judged(config: LinkConfig, graph: Path, path: Path, say: Callable[[str], str], number: int = 80) -> Path:
    """A sample of the linked text with `say(surface)` as judgement."""
    rows = [
        line.split("\t") for line in sample(SampleConfig(linked=config.output, graph=graph, number=number)).split("\n")
    ]
    assert tuple(rows[0]) == COLUMNS
    filled = [rows[0], *([*row[:-1], say(row[4].split("[[")[1].split("]]")[0])] for row in rows[1:])]
    path.write_text("".join("\t".join(row) + "\n" for row in filled), encoding="utf-8")
    return path


def test_a_sample_shows_links_as_they_stand(linked: LinkConfig, bank_world: Path) -> None:
    """A reader judges what is shown: another span or entity would make the judgement worthless."""
    texts = {document.id: document for document in read_linked(linked.output)}
    scores = {(name, m.start): m.score for name, document in texts.items() for m in document.mentions}
    drawn = sample(SampleConfig(linked=linked.output, graph=bank_world / "graph", number=60)).split("\n")[1:]
    assert len(set(drawn)) == 60
    for line in drawn:
        name, start, end, entity, shown, means, judgement = line.split("\t")
        document = texts[name]
        assert (int(start), int(end), entity) in {(m.start, m.end, m.entity) for m in document.mentions}
        assert f"[[{document.text[int(start) : int(end)]}]]" in shown
        assert means.strip(": ")
        assert judgement == ""
    shown_scores = [scores[line.split("\t")[0], int(line.split("\t")[1])] for line in drawn]
    assert shown_scores != sorted(shown_scores, reverse=True), "the surest first would tell whoever judges"
    again = sample(SampleConfig(linked=linked.output, graph=bank_world / "graph", number=60)).split("\n")[1:]
    assert again == drawn
    with pytest.raises(InputError, match="expected at least 100,000 links to draw from"):
        sample(SampleConfig(linked=linked.output, graph=bank_world / "graph", number=100_000))


def test_a_linker_learns_from_judged_links_how_sure_it_may_be(
    linked: LinkConfig, bank_world: Path, tmp_path: Path
) -> None:
    """Names of one meaning are right here, those of several wrong: scores have to follow, wherever they are read."""
    table = judged(
        linked,
        bank_world / "graph",
        tmp_path / "judged.tsv",
        lambda name: "wrong" if name.lower() == "bank" else "right",
    )
    assert linked.linker is not None
    config = CalibrateConfig(linker=linked.linker, linked=linked.output, judged=table, output=tmp_path / "calibrated")
    manifest = open_artifact(calibrate.run(config), stage="link calibrate")
    assert manifest.counts["judged"] == 80
    assert manifest.counts["right"] + manifest.counts["wrong"] == 80
    assert manifest.figures["calibration_error"] < manifest.figures["calibration_error_before"]
    before, after = (EntityLinker.from_pretrained(folder) for folder in (config.linker, config.output))
    texts = [document.text for document in read_linked(linked.output)]
    before.min_score = after.min_score = 0.0
    scores: dict[bool, list[float]] = {True: [], False: []}
    for text, old, new in zip(texts, before.link_batch(texts), after.link_batch(texts), strict=True):
        assert [(link.start, link.end, link.entity) for link in new] == [(m.start, m.end, m.entity) for m in old]
        for link in new:
            scores[text[link.start : link.end].lower() == "bank"].append(link.score)
    assert max(scores[True]) < min(scores[False])
    assert sum(scores[True]) / len(scores[True]) < 0.6 < sum(scores[False]) / len(scores[False])
    assert [mention.link for mention in after.explain(texts[0])] == after.link(texts[0])
    assert score_for_precision(config.output, 0.95) > 0.5


def test_judgements_that_cannot_be_used_are_named_or_counted(
    linked: LinkConfig, bank_world: Path, tmp_path: Path
) -> None:
    """A typo taken for "wrong" teaches the opposite of what was meant."""
    path = judged(
        linked, bank_world / "graph", tmp_path / "judged.tsv", lambda name: "" if name == "bank" else "Right "
    )
    dropped: Counter[str] = Counter()
    kept = list(read_judged(path, dropped))
    assert all(link.right for link in kept)
    assert len(kept) + dropped["not_judged"] == 80
    assert linked.linker is not None
    config = CalibrateConfig(linker=linked.linker, linked=linked.output, judged=path, output=tmp_path / "out")
    with pytest.raises(InputError, match="expected at least two right and two wrong links"):
        calibrate.run(config)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1].rsplit("\t", 1)[0] + "\tperhaps"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"judged.tsv:2: judgement is 'perhaps', expected right, wrong or nothing"):
        calibrate.run(config)
    path.write_text("document\tstart\tend\nx\t1\t2\n", encoding="utf-8")
    with pytest.raises(InputError, match="found no entity, judgement"):
        calibrate.run(config)
    path.write_text("document\tstart\tend\tentity\tjudgement\nd1\tone\t2\tq\tright\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"judged.tsv:2: expected whole numbers as start and end"):
        calibrate.run(config)
    path.write_text(
        "document\tstart\tend\tentity\tjudgement\nnobody\t1\t2\tq\tright\nd1\t0\t1\tq\twrong\n", encoding="utf-8"
    )
    dropped.clear()
    assert [link.document for link in read_judged(path, dropped)] == ["nobody", "d1"]
    with pytest.raises(InputError, match="found 0 and 0"):
        calibrate.run(config)
    with pytest.raises(InputError, match="cannot be read"):
        list(read_judged(tmp_path / "nowhere.tsv", dropped))
    path.write_bytes(b"document\xff\n")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        list(read_judged(path, dropped))


def test_wrong_links_of_one_document_alone_cannot_be_held_out(
    linked: LinkConfig, bank_world: Path, tmp_path: Path
) -> None:
    """A part without any wrong link has nothing to learn from: that is said, not met inside a library."""
    path = judged(linked, bank_world / "graph", tmp_path / "judged.tsv", lambda name: "right")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    often = Counter(row[0] for row in rows[1:]).most_common(1)[0][0]
    filled = [[*row[:-1], "wrong" if row[0] == often else "right"] for row in rows[1:]]
    assert sum(row[-1] == "wrong" for row in filled) >= 2
    path.write_text("".join("\t".join(row) + "\n" for row in [rows[0], *filled]), encoding="utf-8")
    assert linked.linker is not None
    config = CalibrateConfig(linker=linked.linker, linked=linked.output, judged=path, output=tmp_path / "out")
    with pytest.raises(InputError, match="in documents enough to hold some out"):
        calibrate.run(config)
