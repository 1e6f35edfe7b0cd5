"""An artifact that several processes of one training make together: the first one writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ernie.training.processes import make_accelerator
from kg.artifact import ArtifactWriter, StageConfig, write_artifact


@contextmanager
def shared_artifact(config: StageConfig, *, stage: str) -> Iterator[ArtifactWriter]:
    """`kg.artifact.write_artifact` (resumable) in the first process; the others get a writer of the same folder whose
    counts and figures go nowhere. All leave together, once the artifact stands."""
    processes = make_accelerator()
    if processes.is_main_process:
        with write_artifact(config, stage=stage, resumable=True) as writer:
            processes.wait_for_everyone()
            yield writer
    else:
        processes.wait_for_everyone()
        output = Path(config.output)
        yield ArtifactWriter(path=output.with_name(output.name + ".partial"))
    processes.wait_for_everyone()
