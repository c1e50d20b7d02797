"""The tools of a request: one description of each, whatever API it came in by, and the set of them.

ToolSpec   what the client calls it ─► its name in the prompt, its arguments, who runs it
ToolSet    the names both ways, the toolbox of the turn, and the grammar of each round
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from openai_harmony import ToolDescription, ToolNamespaceConfig

from gpt_oss.errors import ParameterError
from gpt_oss.harmony.aliases import Aliases
from gpt_oss.harmony.enforce import enforceable
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar, can_follow
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.harmony.schema import check_schema
from gpt_oss.params import Grammar
from gpt_oss.server.core.body import Fields
from gpt_oss.server.core.errors import RequestError
from gpt_oss.tools.functions import FunctionTool, declared_function
from gpt_oss.tools.tool import Tool
from gpt_oss.tools.toolbox import Toolbox

Syntax = Literal["json", "text", "lark", "regex"]
SYNTAXES: Mapping[object, Syntax] = {"text": "text", "lark": "lark", "regex": "regex"}
FREE_TEXT: Mapping[str, Any] = {"type": "string"}
MakeGrammar = Callable[[], Grammar]


@dataclass(frozen=True)
class ToolSpec:
    """One tool that a client declares, or that a server of its choice has.

    kind: "function", "custom" (its content is free text), "mcp", or one of OpenAI's types that the client runs.
    name: the client's.
    description: what the model reads.
    parameters: the JSON schema of its arguments.
    strict: whether arguments are held to the schema; None is for as far as that can be done.
    syntax: what a call's content is: JSON, or text of a grammar.
    definition: that grammar.
    namespace: the group that the client declared it in.
    server: the label of the MCP server that runs it.
    runs: what runs it here; None where the client does.
    where: its place in the request, for errors.
    schema_where: that of its schema.
    flat: its name without a group, unique in the set.
    """

    name: str
    kind: str = "function"
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = False
    syntax: Syntax = "json"
    definition: str = ""
    namespace: str | None = None
    server: str | None = None
    runs: FunctionTool | None = None
    where: str = "tools"
    schema_where: str = ""
    flat: str = ""

    @property
    def identity(self) -> tuple[str, str | None, str]:
        return self.kind, self.namespace, self.name

    @property
    def is_strict(self) -> bool:
        if self.strict is None and self.syntax == "json":
            return self.parameters is not None and can_follow(self.parameters)
        return bool(self.strict)


def function_spec(tool: Fields, *, schema_in: str = "parameters", **more: Any) -> ToolSpec:
    """The tool that an object with name, description and a schema declares. Raises RequestError."""
    schema = tool.object(schema_in)
    if schema is not None:
        check_schema(schema.value, schema.where)
    return ToolSpec(
        _name(tool),
        description=tool.text("description"),
        parameters=None if schema is None else schema.value,
        strict=None if tool["strict"] is None else bool(tool["strict"]),
        where=tool.where,
        schema_where=tool.at(schema_in),
        **more,
    )


def custom_spec(tool: Fields, **more: Any) -> ToolSpec:
    """The tool of free text that an object with name, description and a format declares. Raises RequestError."""
    form = tool.object("format") or Fields({}, tool.at("format"))
    grammar = form.object("grammar") or form  # Chat Completions has it one deeper
    syntax = SYNTAXES.get(grammar.word("syntax") if form.kind == "grammar" else "text")
    if syntax is None:
        raise tool.refuse("format", "is text, or a grammar in lark or regex")
    return ToolSpec(
        _name(tool),
        "custom",
        tool.text("description"),
        FREE_TEXT,
        syntax=syntax,
        definition="" if syntax == "text" else grammar.text("definition"),
        where=tool.where,
        **more,
    )


def _name(tool: Fields) -> str:
    name = tool["name"]
    if not isinstance(name, str) or not name:
        raise tool.refuse("name", "is missing")
    return name


@dataclass(frozen=True)
class Choice:
    """What a request says of calling.

    of: "auto", "none", "required", or the one that must be called: its flat name, or a built-in tool's recipient.
    allowed: flat names and recipients that may be called, where that is not everything that is declared.
    """

    of: str = "auto"
    allowed: frozenset[str] | None = None


AUTO = Choice()


@dataclass(frozen=True)
class ToolSet:
    """The tools of a request.

    specs: functions of the prompt, those that run here and those of the client.
    built_in: tools of the system message, which run here.
    aliases: the name in the prompt of each flat name.
    """

    specs: tuple[ToolSpec, ...] = ()
    built_in: tuple[Tool, ...] = ()
    aliases: Aliases = field(default_factory=Aliases)

    @classmethod
    def of(
        cls, declared: Iterable[ToolSpec], *, again: Iterable[ToolSpec] = (), built_in: Sequence[Tool] = ()
    ) -> ToolSet:
        """Gives every tool a name of its own in the prompt.

        declared: by the request. again: by its history; what is declared already is left out.
        Raises RequestError for two of the same name, and for a name that cannot be one.
        """
        found: dict[tuple[str, str | None, str], ToolSpec] = {}
        taken: set[str] = set()
        listed = [(spec, False) for spec in declared] + [(spec, True) for spec in again]
        for spec, was_found_later in listed:
            if spec.identity in found:
                if was_found_later:
                    continue
                raise RequestError(f"{spec.where}.name {spec.name!r} is declared twice", param=f"{spec.where}.name")
            flat = spec.name
            if spec.server is not None and flat in taken:
                raise RequestError(f"{flat!r} of the MCP server {spec.server!r} is declared twice", param="tools")
            while flat in taken:
                flat = f"{spec.namespace or spec.kind}_{flat}"
            taken.add(flat)
            found[spec.identity] = replace(spec, flat=flat)
        specs = tuple(found.values())
        return cls(specs, tuple(built_in), Aliases.of(spec.flat for spec in specs))

    @cached_property
    def toolbox(self) -> Toolbox:
        """What the turn runs calls with. Raises RequestError for a name that no function can have."""
        functions = [spec.runs or _declared(spec) for spec in self.specs]
        try:
            return Toolbox.of([*self.built_in, *functions], lambda _: self.aliases.to_prompt)
        except ParameterError as error:
            raise RequestError(str(error), param="tools") from None

    @property
    def recipients(self) -> list[str]:
        """The recipients of the built-in tools."""
        return Toolbox(self.built_in).recipients

    @property
    def namespaces(self) -> list[ToolNamespaceConfig]:
        return [tool.tool_config for tool in self.built_in]

    @property
    def declarations(self) -> list[ToolDescription]:
        """The functions, as the developer message has them."""
        return [
            ToolDescription(
                name=self.aliases.in_prompt(spec.flat),
                description=spec.description,
                parameters=dict(spec.parameters) if spec.parameters else None,
            )
            for spec in self.specs
        ]

    @cached_property
    def _by_flat(self) -> Mapping[str, ToolSpec]:
        return {spec.flat: spec for spec in self.specs}

    @cached_property
    def _by_name(self) -> Mapping[tuple[str | None, str], ToolSpec]:
        return {(spec.namespace, spec.name): spec for spec in reversed(self.specs)}

    def called(self, recipient: str) -> ToolSpec | None:
        """The function that a call of the model's means; None for built-in tools and for what is not declared."""
        found = self.toolbox.find(recipient)
        if found is None or not isinstance(found[0], FunctionTool):
            return None
        return self._by_flat.get(found[0].name)

    def runs_here(self, recipient: str) -> str | None:
        """The recipient as its tool knows it, where a call of it is run here."""
        found = self.toolbox.find(recipient)
        if found is None:
            return None
        tool, known = found
        return None if isinstance(tool, FunctionTool) and not tool.runs_here else known

    def flat_name(self, name: str, namespace: str | None = None) -> str:
        """The flat name of what a client calls so; the name itself where nothing of the kind is declared."""
        spec = self._by_name.get((namespace, name))
        return name if spec is None else spec.flat

    def in_prompt(self, flat: str) -> str:
        return self.aliases.in_prompt(flat)

    # Grammars

    def left_out(self, formats: Sequence[ResponseFormat]) -> tuple[str, ...]:
        """What of the schemas is not held to, a sentence each.

        Raises HarmonyError where a client was promised that all of one is.
        """
        held = [
            enforceable(spec.parameters, spec.schema_where or spec.where, strict=spec.strict is True)
            for spec in self.specs
            if spec.parameters is not None and spec.syntax == "json" and spec.is_strict
        ]
        held += [enforceable(each.schema, each.where, strict=each.strict) for each in formats]
        return tuple(f"not enforced: {place}" for each in held for place in each.left_out)

    def first_grammar(self, choice: Choice, formats: Sequence[ResponseFormat]) -> MakeGrammar | None:
        """What the model is held to in the first round; None where there is nothing. Raises HarmonyError."""
        of = choice.of if choice.of in self.recipients else self.in_prompt(choice.of)
        return self._grammar(of, self.specs, self.recipients, choice, formats)

    def next_grammar(self, choice: Choice, formats: Sequence[ResponseFormat]) -> MakeGrammar | None:
        """That of the rounds after it: what was required has been called."""
        of = "none" if choice.of == "none" else "auto"
        return self._grammar(of, self.specs, self.recipients, choice, formats)

    def last_grammar(self, choice: Choice, formats: Sequence[ResponseFormat]) -> MakeGrammar | None:
        """That of a round in which nothing that runs here may be called any more."""
        return self._grammar("auto", [spec for spec in self.specs if spec.runs is None], (), choice, formats)

    def _grammar(
        self,
        of: str,
        specs: Sequence[ToolSpec],
        recipients: Sequence[str],
        choice: Choice,
        formats: Sequence[ResponseFormat],
    ) -> MakeGrammar | None:
        allowed = choice.allowed
        able = [spec for spec in specs if allowed is None or spec.flat in allowed]
        builtin = [name for name in recipients if allowed is None or name in allowed]
        if not able and not builtin and not formats:
            return None
        return answer_grammar(
            functions=[self._schema(spec) for spec in able],
            builtin=builtin,
            tool_choice=of,
            response_schema=formats[0].schema if formats else None,
            response_where=formats[0].where if formats else "response_schema",
            strict=frozenset(self.in_prompt(spec.flat) for spec in able if spec.is_strict),
        )

    def _schema(self, spec: ToolSpec) -> FunctionSchema:
        name = self.in_prompt(spec.flat)
        if spec.syntax == "json":
            return FunctionSchema(name, spec.parameters, where=spec.schema_where)
        return FunctionSchema(name, None, spec.syntax, spec.definition, where=f"{spec.where}.format")


NO_TOOLS = ToolSet()


def _declared(spec: ToolSpec) -> FunctionTool:
    try:
        return declared_function(spec.flat, spec.description, spec.parameters)
    except ParameterError as error:
        raise RequestError(f"{spec.where}.name: {error}", param=f"{spec.where}.name") from None
