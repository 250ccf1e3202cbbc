"""Writes the routes down as an OpenAPI 3.1 document, from the declarations by which requests are read.

Called once, when the document is first asked for. It decides nothing: what is not declared is not in it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from zbrain_nb import __version__
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.server.handlers.declaration import METHODS, Content, Header, OpenTo, Operation, operation_of

Schema = dict[str, Any]
_VARIES = re.compile(r"{(\w+)}")
#: What each varying part of an address is, for people; a part whose values have a known format names it.
_PARTS = {
    "job_id": ("A job's id.", {"format": "uuid"}),
    "worker_id": ("A worker's id.", {}),
    "verb": ("What to do with the jobs.", {}),
    "name": ("Name of a file or variable, escaped.", {}),
    "sha256": ("SHA-256 of the bytes, in lower-case hexadecimal.", {}),
    "org": ("An org.", {}),
    "kind": ("A kind of worker.", {}),
    "cache_key": ("SHA-256 of a cell, what it reads and what runs it, in lower-case hexadecimal.", {}),
    "token_id": ("A token's id, as lists show it; never its secret.", {}),
}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The word `token`, a space, and the token.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "zbrain-PORT",
        "description": "Of a browser that `zbrain dashboard` opened; through Jupyter its own login stands for it.",
    },
}
_SHOWN = {OpenTo.ALL: (), OpenTo.CALLERS: ("bearer", "token", "session"), OpenTo.TOKEN: ("bearer", "token")}


class Refusal(msgspec.Struct):
    """What went wrong; some codes come with more fields, such as ``field`` or ``offset``."""

    code: str
    message: str
    hint: str


class Refused(msgspec.Struct):
    """The body of every refusal."""

    error: Refusal


def document(routes: Iterable[tuple[str, type]], parts: Mapping[str, str]) -> Schema:
    """Return the document.

    Parameters
    ----------
    routes : iterable of tuple of str and type
        Addresses behind ``zbrain/api/``, with the parts that vary in braces, and their handlers.
    parts : mapping of str to str
        What may stand for each varying part, as a regular expression.

    Raises
    ------
    ValueError
        If two types have one name.
    """
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for route, handler in routes:
        item: Schema = {}
        if varying := _VARIES.findall(route):
            item["parameters"] = [_part(name, parts[name]) for name in varying]
        for method in METHODS:
            declared = operation_of(handler, method)
            if declared is not None:
                item[method] = _operation(route, handler, method, declared, schemas)
        paths[f"/{route}"] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "zbrain",
            "version": __version__,
            "summary": "A durable job queue for notebooks.",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": ".", "description": "Beside this document."}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items())), "securitySchemes": _SCHEMES},
    }


class _Schemas:
    """Schemas of types; the structs among them stand under `components`, once each."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type."""
        schema, components = _schema(kind)
        for name, component in components.items():
            if self.components.setdefault(name, component) != component:
                raise ValueError(f"Two types of the document are called {name}.")
        return schema


def _schema(kind: Any) -> tuple[Schema, dict[str, Schema]]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    for component in components.values():
        if "description" in component:
            component["description"] = inspect.cleandoc(component["description"])
    return schema, components


def _part(name: str, pattern: str) -> Schema:
    text, more = _PARTS[name]
    schema = {"type": "string", "pattern": f"^(?:{pattern})$", **more}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _operation(route: str, handler: type, method: str, declared: Operation, schemas: _Schemas) -> Schema:
    text = inspect.cleandoc(getattr(handler, method).__doc__ or "")
    summary, _, rest = text.partition("\n")
    found: Schema = {
        "operationId": "_".join([method, *re.findall(r"\w+", route)]),
        "summary": summary,
        "tags": [re.split(r"[/.]", route)[0]],
        "security": _security(declared),
    }
    if rest.strip():
        found["description"] = rest.strip()
    parameters = [*_arguments(declared.query, schemas), *(_header(each, schemas) for each in declared.headers)]
    if parameters:
        found["parameters"] = parameters
    if declared.body is not None:
        found["requestBody"] = {"required": True, "content": _content(declared.body, schemas)}
    responses = {str(status): _answer(status, answer, schemas) for status, answer in declared.answers.items()}
    refusals = declared.refusals(method, varies="{" in route)
    found["responses"] = responses | {
        str(status): _refused(kinds, schemas, method) for status, kinds in refusals.items()
    }
    return found


def _security(declared: Operation) -> list[Schema]:
    """Return what a caller may show, and as "roles" the kinds of credentials that are admitted with it."""
    admits = sorted(kind.value for kind in declared.admits)
    return [{scheme: admits} for scheme in _SHOWN[declared.open_to]] or [{}]


def _arguments(query: type[msgspec.Struct], schemas: _Schemas) -> list[Schema]:
    """Return the parameters that a struct stands for."""
    _, components = _schema(query)
    own = components.pop(query.__name__)
    for name, component in components.items():
        schemas.components.setdefault(name, component)
    found = []
    for name, schema in own["properties"].items():
        value = _given(schema)
        text = value.pop("description", "")
        parameter = {"name": name, "in": "query", "required": name in own.get("required", ()), "schema": value}
        if not parameter["required"]:
            parameter["allowEmptyValue"] = True  # which counts as left out
        if text:
            parameter["description"] = text
        if value.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        found.append(parameter)
    return found


def _given(schema: Schema) -> Schema:
    """Return what a value is when it is given: an argument may be left out, but is never null."""
    value = {key: each for key, each in schema.items() if key != "anyOf" and not (key == "default" and not each)}
    for each in schema.get("anyOf", ()):
        if each != {"type": "null"}:
            value |= each
    return value


def _header(header: Header, schemas: _Schemas) -> Schema:
    return {"name": header.name, "in": "header", "description": header.text, "schema": schemas.of(header.type)}


def _content(body: Any, schemas: _Schemas) -> Schema:
    if isinstance(body, Content):
        return {body.media: {}} if body.media else {}
    kinds = body if isinstance(body, tuple) else (body,)
    found = [schemas.of(kind) for kind in kinds]
    return {"application/json": {"schema": found[0] if len(found) == 1 else {"anyOf": found}}}


def _answer(status: int, answer: Any, schemas: _Schemas) -> Schema:
    found: Schema = {"description": HTTPStatus(status).phrase}
    if answer is not None and (content := _content(answer, schemas)):
        found["content"] = content
    if isinstance(answer, Content) and answer.headers:
        found["headers"] = {
            each.name: {"description": each.text, "schema": schemas.of(each.type)} for each in answer.headers
        }
    return found


def _refused(kinds: Iterable[type[ZBrainError]], schemas: _Schemas, method: str) -> Schema:
    text = "\n".join(f"- `{kind.code}`: {inspect.cleandoc(kind.__doc__ or '')}" for kind in kinds)
    found: Schema = {"description": text}
    if method != "head":
        found["content"] = _content(Refused, schemas)
    return found
