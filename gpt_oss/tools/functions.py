"""Functions that the model may call: a typed Python callable, or any coroutine with a JSON schema.

Signature and docstring become the declaration that the model reads; what it sends is checked against them before the
function runs, and a mismatch becomes an answer that says which argument was wrong. Knows nothing of prompts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias, get_type_hints

import pydantic
from openai_harmony import Message, ToolDescription, ToolNamespaceConfig

from gpt_oss.errors import ParameterError
from gpt_oss.tools.tool import Tool, answer, text_of

NAMESPACE = "functions"
Arguments: TypeAlias = dict[str, Any]
Run: TypeAlias = Callable[[Arguments], Awaitable[object]]

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


class ToolError(Exception):
    """Raised by a function to tell the model in plain words what went wrong; others are told with their type."""


class FunctionTool(Tool):
    """A function in the developer message's `functions` namespace, called on the commentary channel.

    parameters: JSON schema of the arguments. run: gets them as parsed and gives the result: a string as it is,
    anything else as JSON. None where somebody else runs it: the turn then ends with the call (`declared_function`).
    """

    def __init__(self, name: str, description: str, parameters: Mapping[str, Any] | None, run: Run | None) -> None:
        if not _NAME.fullmatch(name):
            raise ParameterError(f"a function's name has letters, digits, _, - and dots, at most 128; not {name!r}")
        self.name = name
        self.description = description
        self.parameters = parameters
        self._run = run

    @property
    def runs_here(self) -> bool:
        return self._run is not None

    @property
    def declaration(self) -> ToolDescription:
        return ToolDescription.new(self.name, self.description, dict(self.parameters) if self.parameters else None)

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        return ToolNamespaceConfig(name=NAMESPACE, description=None, tools=[self.declaration])

    @property
    def instruction(self) -> str:
        """What the developer message's instructions say of it beside its declaration; mostly nothing."""
        return ""

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        assert self._run is not None, "the turn ends with a call that somebody else runs"
        try:
            result = await self._run(parse_arguments(text_of(message)))
        except ToolError as error:
            yield answer(message, f"Error: {error}", failed=True)
        except Exception as error:  # the user's own code, which may raise anything: the model is told, the turn goes on
            yield answer(message, f"Error: {type(error).__name__}: {error}", failed=True)
        else:
            yield answer(message, result if isinstance(result, str) else pydantic_json(result))


def declared_function(name: str, description: str, parameters: Mapping[str, Any] | None) -> FunctionTool:
    """A function that the model may call and that somebody else runs, such as the client of a server."""
    return FunctionTool(name, description, parameters, None)


def function_tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> FunctionTool:
    """A tool of a typed callable. Plain functions run in a thread, coroutine functions where the turn runs.

    The docstring's text is the description, its `Args:` section describes the arguments (Google or reST style).
    Raises ParameterError where the signature cannot be declared: *args, **kwargs, positional-only, an unknown type.
    """
    called = function if inspect.isroutine(function) else type(function).__call__
    label = name or str(getattr(function, "__name__", type(function).__name__))
    text, notes = parse_docstring(inspect.getdoc(function) or "")
    model = _arguments_model(function, _type_hints(called, label), label, notes)
    schema = model.model_json_schema()
    parameters = _without_titles(schema) if schema.get("properties") else None

    async def run(arguments: Arguments) -> object:
        try:
            checked = model.model_validate(arguments)
        except pydantic.ValidationError as error:
            raise ToolError(_what_is_wrong(error)) from None
        # Values as the annotations say (a dataclass, an enum, a date), not as the JSON had them.
        values = {field: getattr(checked, field) for field in model.model_fields}
        keywords = {info.alias or field: values[field] for field, info in model.model_fields.items()}
        if inspect.iscoroutinefunction(called):
            return await function(**keywords)
        return await asyncio.to_thread(function, **keywords)

    return FunctionTool(label, description if description is not None else text, parameters, run)


def parse_arguments(text: str) -> Arguments:
    """The JSON object that a call holds. Raises ToolError, written for the model, for anything else."""
    if not text.strip():
        return {}
    try:
        arguments = json.loads(text, strict=False)  # models put raw line breaks into strings
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ToolError(f"the arguments must be a JSON object, not {type(arguments).__name__}")
    return arguments


def pydantic_json(value: object) -> str:
    """JSON of a result, dataclasses and pydantic models included; what has no JSON form is told by its repr."""
    return pydantic.TypeAdapter(Any).dump_json(value, fallback=repr).decode()


def _type_hints(function: Callable[..., Any], label: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ParameterError(f"{label}: its annotations cannot be read: {error}") from error


def _arguments_model(
    function: Callable[..., Any], hints: Mapping[str, Any], label: str, notes: Mapping[str, str]
) -> type[pydantic.BaseModel]:
    try:
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ParameterError(f"{label}: {parameter} cannot be declared to a model; name each argument")
            default = ... if parameter.default is parameter.empty else parameter.default
            field = pydantic.Field(default, description=notes.get(parameter.name), alias=parameter.name)
            # A name of ours, for pydantic keeps some (those that begin with an underscore or `model_`) to itself.
            fields[f"arg{len(fields)}"] = (hints.get(parameter.name, Any), field)
        config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        return pydantic.create_model(label, __config__=config, **fields)
    except (TypeError, ValueError, pydantic.errors.PydanticUserError) as error:
        raise ParameterError(f"{label}: its signature cannot be declared to a model: {error}") from error


def _without_titles(schema: Any) -> Any:
    """The schema without the titles that pydantic adds, which tell the model nothing."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(part) for name, part in value.items()}
        if key == "properties"
        else _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def _what_is_wrong(error: pydantic.ValidationError) -> str:
    problems = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()[:5]]
    return "; ".join(problems)


_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params):\s*$")
_ANY_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params|Returns?|Raises|Yields?|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_REST = re.compile(r"^:param\s+(?:[\w\[\], |]+\s+)?(\w+):\s*(.*)$")


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """(description, argument: its description) of a Google or reST docstring; other sections are left out."""
    description: list[str] = []
    notes: dict[str, str] = {}
    section: str | None = None
    current: str | None = None
    indent = 0
    for line in text.splitlines():
        rest = _REST.match(line.strip())
        if rest:
            section, current, indent = "rest", rest[1], len(line) - len(line.lstrip())
            notes[current] = rest[2]
        elif _ANY_SECTION.match(line):
            section, current = ("args" if _SECTION.match(line) else "other"), None
        elif section is None or (line.strip() and not line[0].isspace() and section in ("args", "other")):
            if line.startswith(":"):
                section = "other"
                continue
            section = None
            description.append(line)
        elif section in ("args", "rest") and line.strip():
            depth = len(line) - len(line.lstrip())
            entry = _ENTRY.match(line.strip()) if section == "args" else None
            if entry and (current is None or depth <= indent):
                current, indent = entry[1], depth
                notes[current] = entry[2]
            elif current is not None and depth > indent:
                notes[current] = f"{notes[current]} {line.strip()}".strip()
            elif section == "rest":
                section, current = "other", None
    return "\n".join(description).strip(), {name: note for name, note in notes.items() if note}
