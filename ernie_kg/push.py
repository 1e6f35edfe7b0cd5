"""`ernie-kg push FOLDER REPOSITORY`: a finished model to a hub of models, its card and digests with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg.artifact import damaged_files, open_artifact, read_manifest
from kg.errors import InputError
from kg.model_card import CARD, MODEL_FILES


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """What goes where."""

    folder: Path
    """Artifact that holds a model: of `pretrain run`, `finetune run`, `finetune distill` or `export`."""
    repository: str
    """OWNER/NAME at the hub; made where it does not exist."""
    endpoint: str = ""
    """Address of the hub; empty for the one that huggingface_hub is set to (HF_ENDPOINT)."""
    private: bool = True
    """Whether a repository that is made now can be seen by its owner alone."""

    def __post_init__(self) -> None:
        if self.repository.count("/") != 1 or not all(self.repository.split("/")):
            raise InputError(f"repository: expected OWNER/NAME, got {self.repository!r}")


def push(config: PushConfig) -> str:
    """Uploads every file that the manifest names, and the manifest; returns the address of the commit.

    The token is the one `hf auth login` or HF_TOKEN gives; it is neither read nor kept here.

    Raises:
        InputError: no model, a damaged file, no card, a hub that refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HfUriError

    files = checked_files(config.folder)
    api = HfApi(endpoint=config.endpoint or None)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=config.folder / name) for name in files]
    stage = read_manifest(config.folder).stage
    try:
        api.create_repo(config.repository, private=config.private, exist_ok=True)
        commit = api.create_commit(config.repository, operations, commit_message=f"ernie-kg {stage}")
    except (HfHubHTTPError, HfUriError, OSError) as error:
        raise InputError(
            f"{config.repository}: the hub refused or could not be reached ({' '.join(str(error).split())}); "
            f"log in with `hf auth login`, and see that the name is yours"
        ) from None
    return f"{len(files)} files: {commit.commit_url}"


def checked_files(folder: Path) -> list[str]:
    """The files to upload.

    Raises:
        InputError: the folder is no finished artifact, holds no model or no card, or a file has other bytes than were
            written.
    """
    stage = read_manifest(folder).stage if (Path(folder) / "manifest.json").is_file() else "finetune run"
    manifest = open_artifact(folder, stage=stage)
    names = list(manifest.data["files"])
    if missing := [name for name in (*MODEL_FILES, CARD) if name not in names]:
        raise InputError(
            f"{folder}: expected a model with its card, {', '.join(missing)} is missing; run its stage again"
        )
    if damaged := damaged_files(folder):
        raise InputError(f"{folder}: {', '.join(damaged)} has other bytes than were written; nothing was uploaded")
    return [*names, "manifest.json"]
