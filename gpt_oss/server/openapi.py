"""Bodies of requests: read by hand for the sake of their errors, and what /docs says of them therefore."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import pydantic

from gpt_oss.server.core.errors import RequestError

Model = TypeVar("Model", bound=pydantic.BaseModel)
_TYPE = re.compile(r"(str|int|float|bool|(list|dict)\[.*\])")  # which pydantic puts into the path to a field of several


def read_as(model: type[Model], body: Any) -> Model:
    """A body as its model; null is as if the field were not there. Raises RequestError, which names the field."""
    given = {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body
    try:
        return model.model_validate(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not _TYPE.fullmatch(str(part)))
        raise RequestError(f"{where or 'the body'}: {first['msg']}", param=where or None) from None


def body_of(model: type[pydantic.BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is such an object."""
    schema = model.model_json_schema()
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Without references, which would mean the whole document and not this schema."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}
