"""The explorer's addresses: three static files and the answers in JSON."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from ernie_kg.explorer.knowledge import Knowledge, checked_text
from ernie_kg.explorer.limits import RATE, Limits
from ernie_kg.explorer.models import Models, example_of
from ernie_kg.explorer.run_folder import RunFolder

MAX_TEXT = 20_000
MAX_SPANS = 2_000
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
"""Every file that is served, by its address; there is no way from an address to another file."""


class TextRequest(BaseModel):
    """A text to link."""

    text: str = Field(max_length=MAX_TEXT)


class SpanRequest(BaseModel):
    """`text[start:end]`, in Unicode code points."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)
    role: str = Field(default="mention", max_length=40)


class LinkRequest(BaseModel):
    """A linked mention."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)
    entity: str = Field(max_length=1_000)


class PredictRequest(TextRequest):
    """A text with its links, and what is marked in it."""

    model: str = Field(max_length=200)
    spans: Annotated[list[SpanRequest], Field(max_length=MAX_SPANS)] = []
    links: Annotated[list[LinkRequest], Field(max_length=MAX_SPANS)] = []


def make_app(run: RunFolder, *, rate: float = RATE) -> FastAPI:
    """The application over one run; its graph and linker are loaded here, task models when they are asked.

    rate: requests a second over time, twice as many at once.
    """
    knowledge, models = Knowledge(run), Models(run)
    turn = threading.Lock()  # one question at a time: answers share the cores, and their times are shown
    app = FastAPI(title="ernie-kg explorer", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Limits, rate=rate)

    @app.exception_handler(Exception)
    def _fault(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"a fault of ours: {type(error).__name__}"}, status_code=500)

    @app.exception_handler(ValueError)
    def _mendable(request: Request, error: ValueError) -> JSONResponse:
        if getattr(error, "exit_code", None) != 2:
            return _fault(request, error)
        return JSONResponse({"detail": str(error)}, status_code=400)

    for address, (name, kind) in STATIC.items():
        content = files("ernie_kg.explorer").joinpath("static", name).read_bytes()
        app.add_api_route(address, _static(content, kind), methods=["GET"])

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {
            "folder": run.folder.resolve().name,
            "entities": knowledge.graph.num_entities,
            "triples": knowledge.graph.num_triples,
            "vectors": run.vectors is not None,
            "max_text": MAX_TEXT,
            "models": models.about(),
        }

    @app.post("/api/link")
    def link(request: TextRequest) -> dict[str, Any]:
        with turn:
            return {"mentions": knowledge.links(checked_text(request.text, limit=MAX_TEXT))}

    @app.get("/api/entity")
    def entity(name: Annotated[str, Field(max_length=1_000)]) -> dict[str, Any]:
        with turn:
            return knowledge.entity(name)

    @app.get("/api/nearest")
    def nearest(name: Annotated[str, Field(max_length=1_000)]) -> dict[str, Any]:
        with turn:
            return knowledge.nearest(name)

    @app.post("/api/predict")
    def predict(request: PredictRequest) -> dict[str, Any]:
        text = checked_text(request.text, limit=MAX_TEXT)
        spans, links = ([item.model_dump() for item in items] for items in (request.spans, request.links))
        with turn:
            return {"rows": models.ask(request.model, example_of(text, spans, links))}

    return app


def _static(content: bytes, kind: str):
    def answer() -> Response:
        return Response(content, media_type=kind)

    return answer
