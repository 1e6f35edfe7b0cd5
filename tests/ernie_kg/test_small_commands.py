"""`doctor`, `verify`, `completion` and `push`: what they say, and that they notice what they are for."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ernie_kg import doctor as doctoring
from ernie_kg.cli import main
from ernie_kg.completion import CompletionConfig, completion
from ernie_kg.doctor import DoctorConfig, doctor
from ernie_kg.push import PushConfig, push
from ernie_kg.stages import STAGES, VIEWS
from kg.artifact import write_artifact
from kg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    output: Path

    def inputs(self) -> dict[str, Path]:
        return {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with write_artifact(MadeConfig(output=tmp_path / "run" / "model"), stage="finetune run") as writer:
        (writer.path / "config.json").write_text("{}")
        (writer.path / "model.safetensors").write_bytes(b"weights" * 100)
    return tmp_path / "run" / "model"


def test_a_sound_machine_gets_no_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    checks = (doctoring.python_and_packages, doctoring.machine, doctoring.disk)
    findings = {found.what: found for check in checks for found in check(DoctorConfig(folder=tmp_path))}
    assert {"Python", "packages", "cores", "threads", "memory", "disk", "write access"} <= findings.keys()
    assert not findings["packages"].mend
    assert not findings["write access"].mend


def test_each_problem_gets_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of red crosses without a next step is no help; and a check that cannot fail checks nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("ERNIE_KG_WORDNET", str(tmp_path / "nowhere"))
    monkeypatch.setattr(doctoring, "_available_memory", lambda: 2**30)
    monkeypatch.setattr(doctoring, "LEAST_DISK", 2**70)
    monkeypatch.setattr(doctoring, "TOGETHER", "import os; os.abort()")
    monkeypatch.setattr(doctoring, "DATA", {"paragraphs": "package:no_such_package/x"})
    monkeypatch.setattr(doctoring.metadata, "version", lambda name: "0.0.1")
    text = doctor(DoctorConfig(folder=tmp_path))
    mends = text.partition("want mending:")[2]
    for what in ("threads", "memory", "disk", "paragraphs", "faiss beside torch", "torch"):
        assert f"\n  {what}: " in mends, what
    assert "pip install 'torch" in mends
    assert "does not exist" in doctor(DoctorConfig(folder=tmp_path / "none"))


def test_verify_names_the_damaged_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(model.parent)]) == 0
    assert "whole" in capsys.readouterr().out
    (model / "model.safetensors").write_bytes(b"weightz" * 100)
    assert main(["verify", str(model.parent)]) == 2
    assert "model.safetensors has other bytes" in capsys.readouterr().err
    assert main(["verify", str(model.parent.parent / "none")]) == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["ernie-kg", "fine"], {"finetune"}),
        (["ernie-kg", "kg", "e"], {"embed", "export"}),
        (["ernie-kg", "kg", "embed", "--di"], {"--dim"}),
        (["ernie-kg", "report", "--num_p"], {"--num_paragraphs"}),
        (["ernie-kg", "run", "--dr"], {"--dry-run"}),
    ],
)
def test_bash_completes_commands_and_options(tmp_path: Path, typed: list[str], expected: set[str]) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(completion(CompletionConfig()))
    words = " ".join(f"'{word}'" for word in typed)
    asked = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _ernie_kg"
    ask = asked + '; printf "%s\\n" "${COMPREPLY[@]}"'
    answer = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert expected <= set(answer.stdout.split())
    assert all(word.startswith(typed[-1]) for word in answer.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_the_script_of_every_shell(shell: str) -> None:
    """A command added to the tables must not wait for someone to add it here."""
    script = completion(CompletionConfig(shell=shell))  # type: ignore[arg-type]
    for command in (*STAGES, *VIEWS):
        assert all(word in script for word in command.split()), command


@dataclass
class Hub:
    """A stand-in for a hub of models: what it was sent, by repository and file."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    refuse: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import base64

    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if state.refuse or self.headers.get("authorization") != "Bearer hf_local":
                return self.answer({"error": "Unauthorized"}, 401)
            parts = self.path.split("?")[0].strip("/").split("/")
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                state.repositories.setdefault(name, {})
                state.private[name] = asked.get("visibility") == "private" or asked.get("private") is True
                return self.answer({"url": f"https://huggingface.co/{name}"})
            if self.path.startswith("/api/validate-yaml"):
                return self.answer({"errors": [], "warnings": []})
            name = "/".join(parts[2:4])
            if parts[4] == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            assert parts[4] == "commit"
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    state.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"{state.address}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40})

        def do_GET(self) -> None:
            self.answer({"id": "x", "siblings": []})

        def do_HEAD(self) -> None:
            """No file of a repository can be had from here."""
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

        def answer(self, data: Any, status: int = 200) -> None:
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_local")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()


def test_push_sends_every_file_with_card_and_manifest(hub: Hub, model: Path) -> None:
    said = push(PushConfig(folder=model, repository="me/typing", endpoint=hub.address))
    sent = hub.repositories["me/typing"]
    assert sent.keys() == {"config.json", "model.safetensors", "README.md", "manifest.json"}
    assert all((model / name).read_bytes() == content for name, content in sent.items())
    assert hub.private["me/typing"] is True
    assert "4 files" in said


def test_transformers_own_push_sends_our_card_not_its_empty_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`push_to_hub` writes a template of empty headings over the card that save_pretrained wrote."""
    from huggingface_hub import HfApi, constants
    from transformers.utils import hub as of_transformers

    import ernie

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(of_transformers, "_hf_api", HfApi(endpoint=hub.address))
    config = ernie.ErnieConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, entity_size=4
    )
    ernie.ErnieModel(config).push_to_hub("me/encoder")
    sent = hub.repositories["me/encoder"]
    assert {"config.json", "model.safetensors", "README.md", "modeling_ernie_kg.py"} <= sent.keys()
    card = sent["README.md"].decode()
    assert "written by save_pretrained" in card
    assert "More Information Needed" not in card
    assert 'model.attach_entity_table("vectors")' in card


@pytest.mark.parametrize("fault", ["damaged", "no-card", "refused", "name"])
def test_push_sends_nothing_that_is_not_whole(hub: Hub, model: Path, fault: str) -> None:
    if fault == "damaged":
        (model / "model.safetensors").write_bytes(b"weightz" * 100)
    elif fault == "no-card":
        manifest = json.loads((model / "manifest.json").read_text())
        del manifest["files"]["README.md"]
        (model / "manifest.json").write_text(json.dumps(manifest))
    hub.refuse = fault == "refused"
    message = {"damaged": "nothing was uploaded", "no-card": "is missing", "refused": "log in", "name": "OWNER/NAME"}[
        fault
    ]
    with pytest.raises(InputError, match=message):
        push(PushConfig(folder=model, repository="typing" if fault == "name" else "me/typing", endpoint=hub.address))
    assert not hub.repositories.get("me/typing")
