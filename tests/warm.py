"""A process that has imported everything and used nothing, and forks a child for each command: it begins at once, where
a Python of its own would import for seconds. A child is an ordinary process, to be watched, killed and waited for.

Reads a JSON line a request, answers one: {"cwd", "words", "errors"} -> {"pid"}; {"wait": pid} -> {"code"}, negative for
a signal. `words` is a command line of ours, or one of `tests/faults/driver.py` where "driver" stands first; what it
prints goes to the files `errors` and, of the driver, `printed`. With "mounts" it may mount file systems that nobody
else sees, where the system lets it; else it ends with `NO_MOUNTS`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ernie_kg.cli import ENVIRONMENT, main
from ernie_kg.stages import STAGES

HEAVY = ("torch", "transformers", "transformers.models.bert.modeling_bert", "faiss", "onnxruntime", "sklearn.manifold")
NO_MOUNTS = 77
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 0x40000
DRIVER = Path(__file__).parent / "faults/driver.py"


def load_all() -> ModuleType:
    """Imports what any stage imports; the driver's module is returned."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for stage in STAGES.values():
        stage.config_class()
    for name in (*HEAVY, "ernie", "ernie.export", "kg.index", "kg.trainer", "ernie_kg.vector_map"):
        importlib.import_module(name)
    spec = importlib.util.spec_from_file_location("driver", DRIVER)
    assert spec is not None, DRIVER
    assert spec.loader is not None, DRIVER
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    return driver


def own_mounts() -> bool:
    """What `unshare --mount --map-root-user` does, for this process; whether the system allows it."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0


def child(request: dict[str, Any], driver: ModuleType) -> None:
    """Runs one command and ends the process with its exit code."""
    code = 1
    try:
        os.chdir(request["cwd"])
        for place, name in ((0, os.devnull), (1, request.get("printed", os.devnull)), (2, request["errors"])):
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, place)
        words = request["words"]
        if request.get("mounts") and not own_mounts():
            os._exit(NO_MOUNTS)
        if words[0] == "driver":
            fault, road, work, *stages = words[1:]
            driver.run(fault, Path(road), Path(work), stages)
            code = 0
        else:
            code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    driver = load_all()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            pid = os.fork()
            if pid == 0:
                child(request, driver)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
