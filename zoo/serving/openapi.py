"""The REST interface of the served models in OpenAPI's words, from their signatures."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

_INTEGERS = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1), "uint8": (0, 255), "uint32": (0, 2**32 - 1)}
_ERRORS = {
    "400": "the request does not fit the model",
    "404": "there is no such model or version",
    "413": "the body is too large",
    "429": "the request waited too long for its turn",
    "503": "too many requests wait",
    "504": "the model took too long",
}


def document(models: list[dict[str, Any]], with_tokens: bool = False) -> dict[str, Any]:
    """Returns the description.

    Args:
        models: The models as `Catalogue.models` describes them.
        with_tokens: Whether requests need a bearer token.
    """
    paths: dict[str, Any] = {}
    for model in models:
        paths |= _paths(model)
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "neuron-zoo", "version": version("neuron-zoo"), "description": "TF Serving's REST interface for the served models."},
        "paths": paths,
        "components": {
            "schemas": {"Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}},
            "responses": {"Error": {"description": "what is wrong", "content": _json({"$ref": "#/components/schemas/Error"})}},
        },
    }
    if with_tokens:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _paths(model: dict[str, Any]) -> dict[str, Any]:
    """The paths of one model: those of its versions and labels are the same, and take a parameter."""
    versions = [version for version in model["versions"] if "inputs" in version]
    name = model["name"]
    root = f"/v1/models/{name}"
    paths: dict[str, Any] = {}
    number = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    label = {"name": "label", "in": "path", "required": True, "schema": {"type": "string"}}
    for suffix, parameters in (("", []), ("/versions/{version}", [number]), ("/labels/{label}", [label])):
        about = {"parameters": parameters} if parameters else {}
        mark = f"{name}{suffix}"
        paths[f"{root}{suffix}"] = {**about, "get": _get(f"{mark}:status", f"The state of {name}")}
        paths[f"{root}{suffix}/metadata"] = {**about, "get": _get(f"{mark}:metadata", f"The signatures of {name}")}
        if versions:
            newest = versions[0]
            operation = {"operationId": f"{mark}:predict", "summary": f"Predict with {name}", "tags": [name]}
            body = {"required": True, "content": _json({"anyOf": [_request(signature, inputs) for signature, inputs in newest["inputs"].items()]})}
            answer = {"description": "the outputs", "content": _json({"anyOf": [_answer(outputs) for outputs in newest["outputs"].values()]})}
            paths[f"{root}{suffix}:predict"] = {**about, "post": {**operation, "requestBody": body, "responses": {"200": answer, **_errors()}}}
    return paths


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors() -> dict[str, Any]:
    return {status: {"$ref": "#/components/responses/Error"} for status in _ERRORS}


def _get(operation: str, summary: str) -> dict[str, Any]:
    answer = {"description": summary, "content": _json({"type": "object"})}
    return {"operationId": operation, "summary": summary, "responses": {"200": answer, **_errors()}}


def _request(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """A request in row format or in column format."""
    name = {"signature_name": {"const": signature}}
    required = [] if signature == "serving_default" else ["signature_name"]
    rows = {alias: _schema(info["dtype"], None if info["shape"] is None else info["shape"][1:]) for alias, info in inputs.items()}
    wholes = {alias: _schema(info["dtype"], info["shape"]) for alias, info in inputs.items()}
    row, whole = (
        {"anyOf": [*([next(iter(tensors.values()))] if len(tensors) == 1 else []), _object(tensors)]} if tensors else {"type": "object"}
        for tensors in (rows, wholes)
    )
    by_row = {
        "type": "object",
        "required": [*required, "instances"],
        "properties": {**name, "instances": {"type": "array", "minItems": 1, "items": row}},
    }
    by_column = {"type": "object", "required": [*required, "inputs"], "properties": {**name, "inputs": whole}}
    return {"title": signature, "anyOf": [by_row, by_column]}


def _answer(outputs: dict[str, Any]) -> dict[str, Any]:
    rows = {alias: _schema(info["dtype"], None if info["shape"] is None else info["shape"][1:]) for alias, info in outputs.items()}
    wholes = {alias: _schema(info["dtype"], info["shape"]) for alias, info in outputs.items()}
    row, whole = (next(iter(tensors.values())) if len(tensors) == 1 else _object(tensors) for tensors in (rows, wholes))
    by_row = {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array", "items": row}}}
    return {"anyOf": [by_row, {"type": "object", "required": ["outputs"], "properties": {"outputs": whole}}]}


def _object(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(tensors), "properties": tensors}


def _schema(dtype: str, shape: list[int] | None) -> dict[str, Any]:
    """A tensor as nested arrays; one of open rank may be anything."""
    if shape is None:
        return {}
    schema = _element(dtype)
    for size in reversed(shape):
        limits = {} if size < 0 else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **limits}
    return schema


def _element(dtype: str) -> dict[str, Any]:
    if dtype in _INTEGERS:
        lowest, highest = _INTEGERS[dtype]
        return {"type": "integer", "minimum": lowest, "maximum": highest}
    if dtype in ("int64", "uint64"):
        return {"type": "integer"}
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype == "string":
        packed = {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string", "contentEncoding": "base64"}}}
        return {"anyOf": [{"type": "string"}, packed]}
    return {"type": "number"}
