"""A decode-time grammar of one answer: what a model may write behind `<|start|>assistant`, token by token.

With it headers are well-formed, only declared tools are called, and arguments and answers are the JSON that was asked
for; thoughts stay free. llguidance does the work (docs/syntax.md of guidance-ai/llguidance has its grammar language).
Knows nothing of models or sampling.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.enforce import enforceable
from gpt_oss.harmony.guidance import fault, grammar_text, json_grammar, matcher_of, regex_grammar
from gpt_oss.harmony.schema import check_schema, type_names
from gpt_oss.harmony.trials import Kept, Kind, TooHardError, is_simple, key_of, on_large_stack, trials
from gpt_oss.params import Grammar
from gpt_oss.vocabulary import ENDOFTEXT, VOCABULARY_SIZE

if TYPE_CHECKING:
    from llguidance import LLMatcher

_WORDS = (VOCABULARY_SIZE + 31) // 32
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}

SLOW_S = 0.02  # of processor time, for one mask; the usual ones take less than a millisecond
MOST_SLOW_S = 2.0  # of slow masks in one answer, which all answers of a batch wait for
_SIMPLE = 200_000  # characters of a grammar whose parts are all simple
_BYTES_A_CHARACTER = 20  # of a grammar that was compiled, where a trial has not measured it

_RULES = r"""
start: (quiet <|end|> <|start|> "assistant")* last
TEXT: /(.|\n)*/
kind: (" " <|constrain|> "json" | " json" | " code")?
"""


@dataclass(frozen=True)
class FunctionSchema:
    """A function that may be called, under the name that it has in the prompt (`Aliases.in_prompt`).

    name: what it is called.
    parameters: the JSON schema of its arguments.
    argument: what a call's content is: JSON after `parameters`, or the one free-form text of a custom tool, any at all
        or as `definition` says.
    definition: a Lark grammar or a regular expression (Rust's syntax, no lookarounds).
    where: the client's place of `parameters` or `definition`, which errors name; empty for a place made of the name.
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    argument: Literal["json", "text", "lark", "regex"] = "json"
    definition: str = ""
    where: str = ""

    @property
    def place(self) -> str:
        return self.where or f"{self.name}.{'parameters' if self.argument == 'json' else 'definition'}"


class AnswerGrammar:
    """One answer under way; `Grammar` of gpt_oss/params.py.

    After `<|return|>` or `<|call|>`, which end an answer, it allows nothing but `<|endoftext|>`. So it does after a
    token that it does not allow, where it knows no way on, and once slow masks have taken MOST_SLOW_S of the engine's
    time, but then the answer is not `whole`: an engine that went astray ends one answer, and raises nothing in the
    middle of a batch.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._slow_s = 0.0

    def mask(self) -> NDArray[np.uint32]:
        """Bit t % 32 of word t // 32 is set where token t may come next; for all ids below VOCABULARY_SIZE."""
        if self._failed:
            return _only(ENDOFTEXT)
        started = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[:_WORDS]
        taken = time.thread_time() - started
        self._slow_s += taken if taken > SLOW_S else 0.0
        if self._failed or not mask.any():
            return _only(ENDOFTEXT)
        return mask

    @property
    def whole(self) -> bool:
        """Whether an answer ended here is all that was asked for: what follows its `<|message|>`s parses and fits."""
        return not self._failed and self._matcher.is_accepting()

    @property
    def _failed(self) -> bool:
        """After a token that was not allowed, and beyond llguidance's own limits of time and memory."""
        return self._slow_s > MOST_SLOW_S or self._matcher.is_error()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


_KEPT: Kept[LLMatcher] = Kept(256 << 20)


def answer_grammar(
    *,
    functions: Sequence[FunctionSchema] = (),
    builtin: Sequence[str] = (),
    tool_choice: str = "auto",
    response_schema: Mapping[str, Any] | None = None,
    json_object: bool = False,
    strict: frozenset[str] = frozenset(),
    response_where: str = "response_schema",
) -> Callable[[], Grammar]:
    """What makes a fresh grammar for each answer of a request; for `SamplingParams.grammar`.

    An answer is any number of thoughts, and of preambles where something may be called, then a final message or one
    call. The recipient may stand behind the channel or behind the role: models write both.

    functions: called on commentary as `functions.NAME`. Their content is a JSON object; one that fits the schema where
    the name is in `strict`. builtin: recipients such as "python" and "browser.search", called on analysis; their
    content is free. tool_choice: "auto"; "none", no calls and no preambles; "required", it ends in some call; or the
    name of the function or built-in tool in whose call it ends.
    response_schema, json_object: the final message's content is JSON that fits the schema, or any JSON object; one that
    fits where both are given. response_where: the client's place of the schema, which errors name.

    Schemas are held to as far as `enforceable` says, which also refuses, where it is asked to, what a client was
    promised and no grammar can keep. Raises HarmonyError for a choice that is not declared, for a schema that nothing
    can meet, and for a grammar that llguidance cannot follow.
    The first call in a process takes one or two seconds, for the token table.
    """
    recipients = {f.name: f"functions.{f.name}" for f in functions} | {name: name for name in builtin}
    for name in recipients:
        if not name or any(c.isspace() for c in name):
            raise HarmonyError(f"a tool's name has no spaces and is not empty, unlike {name!r}", field="tools")
    if tool_choice not in ("auto", "none", "required", *recipients):
        sentence = f"tool_choice names {tool_choice!r}, which is not among the tools declared"
        raise HarmonyError(sentence, field="tool_choice")
    if tool_choice == "required" and not recipients:
        raise HarmonyError('tool_choice is "required", and no tools are declared', field="tool_choice")
    parts: dict[str, _Part] = {}
    calls: list[str] = []
    for index, function in enumerate(functions):
        if tool_choice in ("auto", "required", function.name):
            parts[f"f{index}"] = _argument(function, function.name in strict)
            calls.append(_call("commentary", f"functions.{function.name}", f"@f{index}"))
    for name in builtin:
        if tool_choice in ("auto", "required", name):
            calls.append(_call("analysis", name, "TEXT"))
    final = '<|channel|> "final" <|message|> TEXT <|return|>'
    if response_schema is not None or json_object:
        schema = {**(_ANY_OBJECT if json_object else {}), **(response_schema or {})}
        parts["answer"] = _json_part(response_where, schema)
        final = '<|channel|> "final" (" " <|constrain|> "json")? <|message|> @answer <|return|>'
    quiet = '("analysis" | "commentary")' if calls else '"analysis"'
    ends = [*calls, *([final] if tool_choice in ("auto", "none") else [])]
    main = "\n".join([_RULES, f"quiet: <|channel|> {quiet} <|message|> TEXT", "last: " + "\n    | ".join(ends)])
    matcher = _compile(main, parts)
    return lambda: AnswerGrammar(matcher.deep_copy())


@dataclass(frozen=True)
class _Part:
    """A grammar within the grammar.

    where: the client's place of it.
    grammar: llguidance's form of it.
    simple: it can be compiled without a trial.
    """

    where: str
    grammar: Mapping[str, Any]
    simple: bool = False


def _call(channel: str, recipient: str, content: str) -> str:
    to = json.dumps(f" to={recipient}", ensure_ascii=False)
    head = f'(<|channel|> "{channel}" {to} | {to} <|channel|> "{channel}")'
    return f"{head} kind <|message|> {content} <|call|>"


def _argument(function: FunctionSchema, strict: bool) -> _Part:
    where = function.place
    match function.argument:
        case "text":
            return _Part(where, {"lark_grammar": r"start: /(.|\n)*/"}, simple=True)
        case "lark":
            grammar = {"lark_grammar": function.definition}
            _try(where, "compile", grammar_text(grammar))
            return _Part(where, grammar)
        case "regex":
            _try(where, "regex", function.definition)
            return _Part(where, on_large_stack(lambda: regex_grammar(function.definition)))
        case "json":
            if not strict:
                return _json_part(where, _ANY_OBJECT)
            if function.parameters is None:
                return _json_part(where, {**_ANY_OBJECT, "additionalProperties": False})
            return _json_part(where, _of_arguments(function.parameters, where))


def can_follow(schema: Mapping[str, Any]) -> bool:
    """Whether arguments can be held to a schema, as far as `enforceable` says: hardly any is refused."""
    try:
        enforceable(_of_arguments(schema, "parameters"), "parameters")
    except HarmonyError:
        return False
    return True


def _of_arguments(parameters: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The schema of a call's content, which is an object whatever else the parameters allow."""
    check_schema(parameters, where)
    if "object" not in (type_names(parameters) or ["object"]):
        raise HarmonyError(f"{where}.type must be object, for arguments are one", field=f"{where}.type")
    return {**_ANY_OBJECT, **parameters, **_ANY_OBJECT, "nullable": False}


def _json_part(where: str, schema: Mapping[str, Any]) -> _Part:
    held = enforceable(schema, where).schema
    return _Part(where, json_grammar(held), is_simple(schema, json.dumps(schema, default=dict)))


def _compile(main: str, parts: Mapping[str, _Part]) -> LLMatcher:
    """The grammar of an answer. Kept, for an agent sends its tools again and again; see also trials.py."""
    named = [{"name": name, **part.grammar} for name, part in parts.items()]
    text = grammar_text({"lark_grammar": main}, *named)
    key = key_of(text)
    made = _KEPT.get(key)
    if made is None:
        size = _BYTES_A_CHARACTER * len(text)
        if trials() is None or (len(text) <= _SIMPLE and all(part.simple for part in parts.values())):
            made = _made(text, parts)
        else:
            size = max(size, _try("the request", "compile", text))
            made = on_large_stack(lambda: _made(text, parts))
        _KEPT.put(key, made, size)
    return made


def _try(where: str, kind: Kind, text: str) -> int:
    """How many bytes a grammar takes. Raises HarmonyError where it cannot be compiled, or not within the limits."""
    elsewhere = trials()
    if elsewhere is None:
        return 0
    field = where if where != "the request" else None
    try:
        found = elsewhere.found(kind, text)
    except TooHardError as error:
        raise HarmonyError(f"{where} {error}", field=field) from None
    if found["fault"] is not None:
        raise HarmonyError(f"{where} cannot be made a grammar: {found['fault']}", field=field)
    return int(found["bytes"])


def _made(text: str, parts: Mapping[str, _Part]) -> LLMatcher:
    made = matcher_of(text)
    found = fault(made)
    if found is None:
        return made
    for part in parts.values():  # which of them it was, llguidance does not say
        alone = fault(matcher_of(grammar_text(part.grammar)))
        if alone is not None:
            raise HarmonyError(f"{part.where} cannot be made a grammar: {alone}", field=part.where)
    raise HarmonyError(f"the request cannot be made a grammar: {found}")


def _only(token: int) -> NDArray[np.uint32]:
    mask = np.zeros(_WORDS, np.uint32)
    mask[token // 32] = 1 << token % 32
    return mask
