"""Runs the explorer's server on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from ernie_kg.explorer.run_folder import find_run
from kg.errors import InputError

HOST = "127.0.0.1"


def serve(folder: Path, *, port: int) -> None:
    """Loads the run, prints the address, answers until it is interrupted.

    Raises:
        InputError: the extra is not installed, no graph in the folder, or the port is taken.
    """
    try:
        import uvicorn

        from ernie_kg.explorer.app import make_app
    except ImportError as error:
        if error.name not in ("uvicorn", "fastapi"):
            raise
        raise InputError(f"the explorer needs {error.name}; `pip install 'ernie-kg[explorer]'`") from None
    run = find_run(folder)
    listener = _listener(port)
    print(f"loading {folder} …", file=sys.stderr, flush=True)
    app = make_app(run)
    print(f"explorer: http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # whoever comes before the server runs waits
    except OSError as error:
        listener.close()
        raise InputError(f"port {port} on {HOST} cannot be had ({error.strerror}); give another with --port") from None
    return listener
