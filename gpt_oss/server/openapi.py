"""What /docs says of the bodies of requests, whose routes read them by hand for the sake of their errors."""

from __future__ import annotations

from typing import Any

import pydantic


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
