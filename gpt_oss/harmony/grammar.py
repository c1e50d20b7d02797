"""A decode-time grammar of one answer: what a model may write behind `<|start|>assistant`, token by token.

With it headers are well-formed, only declared tools are called, and arguments and answers are the JSON that was asked
for; thoughts stay free. llguidance does the work (docs/syntax.md of guidance-ai/llguidance has its grammar language).
Knows nothing of models or sampling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.schema import check_schema
from gpt_oss.params import Grammar
from gpt_oss.vocabulary import ENDOFTEXT, PATTERN, VOCABULARY_SIZE, special_tokens, text_tokens

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_WORDS = (VOCABULARY_SIZE + 31) // 32
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}

# Space between the parts of JSON is bounded, for a model in doubt writes it for ever; 40 is ten levels of indentation.
# oneOf is read as anyOf: which of several forms fits is beyond a grammar.
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n\r\t]{1,40}", "coerce_one_of": True}

_RULES = r"""
start: (quiet <|end|> <|start|> "assistant")* last
TEXT: /(.|\n)*/
kind: (" " <|constrain|> "json" | " json" | " code")?
"""


@dataclass(frozen=True)
class FunctionSchema:
    """A function that may be called, under the name that it has in the prompt (`Aliases.in_prompt`).

    argument: what a call's content is: JSON after `parameters`, or the one free-form text of a custom tool, any at all
    or as `definition` says, a Lark grammar or a regular expression (Rust's syntax, no lookarounds).
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    argument: Literal["json", "text", "lark", "regex"] = "json"
    definition: str = ""


class AnswerGrammar:
    """One answer under way; `Grammar` of gpt_oss/params.py.

    After `<|return|>` or `<|call|>`, which end an answer, it allows nothing but `<|endoftext|>`. So it does after a
    token that it does not allow and where it knows no way on, but then the answer is not `whole`: an engine that went
    astray ends one answer, and raises nothing in the middle of a batch.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> NDArray[np.uint32]:
        """Bit t % 32 of word t // 32 is set where token t may come next; for all ids below VOCABULARY_SIZE."""
        if self._failed:
            return _only(ENDOFTEXT)
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[:_WORDS]
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
        return self._matcher.is_error()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


def answer_grammar(
    *,
    functions: Sequence[FunctionSchema] = (),
    builtin: Sequence[str] = (),
    tool_choice: str = "auto",
    response_schema: Mapping[str, Any] | None = None,
    json_object: bool = False,
    strict: frozenset[str] = frozenset(),
) -> Callable[[], Grammar]:
    """What makes a fresh grammar for each answer of a request; for `SamplingParams.grammar`.

    An answer is any number of thoughts, and of preambles where something may be called, then a final message or one
    call. The recipient may stand behind the channel or behind the role: models write both.

    functions: called on commentary as `functions.NAME`. Their content is a JSON object; one that fits the schema where
    the name is in `strict`. builtin: recipients such as "python" and "browser.search", called on analysis; their
    content is free. tool_choice: "auto"; "none", no calls and no preambles; "required", it ends in some call; or the
    name of the function or built-in tool in whose call it ends.
    response_schema, json_object: the final message's content is JSON that fits the schema, or any JSON object.

    Raises HarmonyError for a choice that is not declared and for a schema or grammar that llguidance cannot follow.
    The first call in a process takes one or two seconds, for the token table.
    """
    recipients = {f.name: f"functions.{f.name}" for f in functions} | {name: name for name in builtin}
    for name in recipients:
        if not name or any(c.isspace() for c in name):
            raise HarmonyError(f"a tool's name has no spaces and is not empty, unlike {name!r}")
    if tool_choice not in ("auto", "none", "required", *recipients):
        raise HarmonyError(f"tool_choice names {tool_choice!r}, which is not among the tools declared")
    if tool_choice == "required" and not recipients:
        raise HarmonyError('tool_choice is "required", and no tools are declared')
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
        schema = _ANY_OBJECT if response_schema is None else response_schema
        parts["answer"] = _json_part("response_schema", schema)
        final = '<|channel|> "final" (" " <|constrain|> "json")? <|message|> @answer <|return|>'
    quiet = '("analysis" | "commentary")' if calls else '"analysis"'
    ends = [*calls, *([final] if tool_choice in ("auto", "none") else [])]
    main = "\n".join([_RULES, f"quiet: <|channel|> {quiet} <|message|> TEXT", "last: " + "\n    | ".join(ends)])
    matcher = _compile(main, parts)
    return lambda: AnswerGrammar(matcher.deep_copy())


@dataclass(frozen=True)
class _Part:
    """A grammar within the grammar: what errors call it, and llguidance's form of it."""

    what: str
    grammar: Mapping[str, Any]


def _call(channel: str, recipient: str, content: str) -> str:
    to = json.dumps(f" to={recipient}", ensure_ascii=False)
    head = f'(<|channel|> "{channel}" {to} | {to} <|channel|> "{channel}")'
    return f"{head} kind <|message|> {content} <|call|>"


def _argument(function: FunctionSchema, strict: bool) -> _Part:
    what = f"{function.name}.{'parameters' if function.argument == 'json' else 'definition'}"
    match function.argument:
        case "text":
            return _Part(what, {"lark_grammar": r"start: /(.|\n)*/"})
        case "lark":
            return _Part(what, {"lark_grammar": function.definition})
        case "regex":
            from llguidance import regex_to_lark

            return _Part(what, {"lark_grammar": f"start: /{regex_to_lark(function.definition)}/"})
        case "json":
            if not strict:
                return _json_part(what, _ANY_OBJECT)
            if function.parameters is None:
                return _json_part(what, {**_ANY_OBJECT, "additionalProperties": False})
            return _json_part(what, {**_ANY_OBJECT, **function.parameters})


def can_follow(schema: Mapping[str, Any]) -> bool:
    """Whether arguments can be held to a schema, of which llguidance knows most but not all."""
    return _can_follow(json.dumps(schema))


@lru_cache(maxsize=1024)
def _can_follow(schema: str) -> bool:
    try:
        part = _json_part("parameters", {**_ANY_OBJECT, **json.loads(schema)})
    except (HarmonyError, RecursionError):
        return False
    return not _alone(part).is_error()


def _json_part(what: str, schema: Mapping[str, Any]) -> _Part:
    check_schema(schema, what)
    return _Part(what, {"json_schema": {**schema, "x-guidance": _JSON_OPTIONS}})


def _compile(main: str, parts: Mapping[str, _Part]) -> LLMatcher:
    from llguidance import LLMatcher

    named = [{"name": name, **part.grammar} for name, part in parts.items()]
    matcher = LLMatcher(_tokenizer(), json.dumps({"grammars": [{"lark_grammar": main}, *named]}), log_level=0)
    if not matcher.is_error():
        return matcher
    for part in parts.values():  # which of them it was, llguidance does not say
        alone = _alone(part)
        if alone.is_error():
            raise HarmonyError(f"{part.what} cannot be made a grammar: {' '.join(alone.get_error().split())[:200]}")
    raise HarmonyError(f"the request cannot be made a grammar: {' '.join(matcher.get_error().split())[:200]}")


def _alone(part: _Part) -> LLMatcher:
    from llguidance import LLMatcher

    return LLMatcher(_tokenizer(), json.dumps({"grammars": [part.grammar]}), log_level=0)


@lru_cache(maxsize=1)
def _tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer

    ranks = {token: rank for rank, token in enumerate(text_tokens())}
    tokenizer: LLTokenizer = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]  # as llguidance.tiktoken does
        encoder=ranks,
        special_tokens=dict(special_tokens()),
        pattern=PATTERN,
        eos_token=ENDOFTEXT,
        n_vocab=VOCABULARY_SIZE,
        slices=None,
    )
    return tokenizer


def _only(token: int) -> NDArray[np.uint32]:
    mask = np.zeros(_WORDS, np.uint32)
    mask[token // 32] = 1 << token % 32
    return mask
