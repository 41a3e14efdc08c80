"""What a server is sent and what it answers, as /openapi.json describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

TOP_K = 5


class ClassScore(BaseModel):
    """A class and its probability."""

    label: str
    score: float = Field(description="The probability, a part of 1.")


class ImageClasses(BaseModel):
    """The likeliest classes of one image, the likeliest first."""

    name: str = Field(description="The name of the file, or image 0, image 1 and so on.")
    predictions: list[ClassScore]


class Answer(BaseModel):
    """The classes of the images of a request, in their order."""

    images: list[ImageClasses]


class ImageHeatMap(BaseModel):
    """Where the model finds the likeliest class of one image."""

    name: str = Field(description="The name of the file, or image 0, image 1 and so on.")
    label: str
    score: float = Field(description="The probability, a part of 1.")
    method: str = Field(description="gradcam, or rollout, which depends on no class.")
    layer: str | None = Field(description="The module whose output was used; null for rollout.")
    nothing_found: bool = Field(description="Whether nothing in the image speaks for the class.")
    overlay: str = Field(description="A PNG file in base64: the image as the network sees it, below its heat map.")


class HeatMapAnswer(BaseModel):
    """The heat maps of the images of a request, in their order."""

    images: list[ImageHeatMap]


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")


ERRORS = {
    408: "The request took too long to arrive.",
    413: "The request or an image is too large.",
    422: "The request is not understood, or an image cannot be read.",
    429: "Too many images wait; try again later.",
    503: "The model failed or took too long, or the server is about to stop.",
}
NO_HEAT_MAPS = {501: "The model gives no heat maps."}
_TOP_K = {"top_k": {"type": "integer", "minimum": 1, "default": TOP_K}}


def _request(more: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a request with images, as files of a form or as base64 in JSON."""
    formats = {"multipart/form-data": "binary", "application/json": "byte"}
    content = {}
    for kind, form in formats.items():
        images = {"type": "array", "items": {"type": "string", "format": form}}
        properties = {"images": images, **more}
        content[kind] = {"schema": {"type": "object", "required": ["images"], "properties": properties}}
    return {"requestBody": {"required": True, "content": content}}


CLASSIFY_REQUEST, EXPLAIN_REQUEST = _request(_TOP_K), _request({})


def described(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return errors as FastAPI describes them."""
    return {status: {"model": Error, "description": text} for status, text in errors.items()}
