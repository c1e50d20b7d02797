"""From conversations to what the network learns: token ids, and the targets of those tokens that the assistant writes.

One JSON object a line, in OpenAI's shapes; history is rendered exactly as a prompt is. Knows nothing of torch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openai_harmony import Message, Role, SystemContent, ToolNamespaceConfig

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony.from_chat import from_chat
from gpt_oss.harmony.history import header_and_text
from gpt_oss.harmony.json_types import LIST, OBJECT, optional, shown, wanted
from gpt_oss.harmony.render import AnyMessage, Conversation, render, without_old_analysis
from gpt_oss.vocabulary import RETURN, START, encode_ordinary

Int64 = NDArray[np.int64]

IGNORED = -100  # the target of a token whose successor the assistant does not write; torch's ignore_index

FIELDS = ("messages", "tools", "builtin_tools", "reasoning_effort", "response_format", "current_date")
BUILT_IN = {"python": ToolNamespaceConfig.python, "browser": ToolNamespaceConfig.browser}


@dataclass(frozen=True)
class Example:
    """One sequence that the network reads. tokens: int64 [n]. targets: int64 [n], what shall follow each of them.

    where: the file and line that it came from, for errors.
    """

    tokens: Int64
    targets: Int64
    where: str = ""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Pack:
    """Examples one after the other, computed in one pass; each attends to itself only, from position 0.

    tokens, targets: int64 [sum of lengths]. lengths: of the examples, in tokens.
    """

    tokens: Int64
    targets: Int64
    lengths: tuple[int, ...]

    @property
    def target_count(self) -> int:
        """How many tokens have a target."""
        return int((self.targets != IGNORED).sum())


def read_examples(path: str | Path) -> list[Example]:
    """The examples of a JSONL file; empty lines are skipped.

    Raises ParameterError where the file cannot be read or is empty, HarmonyError naming the line that is wrong.
    """
    path = Path(path)
    examples: list[Example] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    examples += _of_line(line, f"{path}, line {number}")
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8: {error}") from error
    if not examples:
        raise ParameterError(f"{path} holds no conversation: one JSON object a line is expected")
    return examples


def _of_line(line: str, where: str) -> list[Example]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HarmonyError(f"{where} is not valid JSON: {error}") from None
    try:
        return examples_of(conversation_of(record), where)
    except HarmonyError as error:
        raise HarmonyError(f"{where}: {error}", hint=error.hint) from None


def conversation_of(record: Any) -> Conversation:
    """A record of FIELDS as a conversation. Chain of thought stands in a message's `thinking` (or `reasoning`).

    builtin_tools: names out of BUILT_IN. The system message then describes them, and calls of `python` or
    `browser.search` go to the analysis channel, as code, with their answers.
    Raises HarmonyError, naming the field.
    """
    record = wanted(record, OBJECT, "the line")
    unknown = sorted(set(record) - set(FIELDS))
    if unknown:
        raise HarmonyError(f"unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    if "messages" not in record:
        raise HarmonyError("the field messages is missing")
    prompt = from_chat(
        record["messages"],
        tools=record.get("tools"),
        reasoning_effort=record.get("reasoning_effort"),
        response_format=record.get("response_format"),
        current_date=record.get("current_date"),
    )
    built_in = _built_in(record)
    messages = [_with_built_in(message, built_in) for message in prompt.conversation.messages]
    return Conversation(messages, prompt.conversation.response_formats)


def _built_in(record: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(optional(record, "builtin_tools", LIST, "the line") or ())
    for name in names:
        if not isinstance(name, str) or name not in BUILT_IN:
            raise HarmonyError(f"builtin_tools knows {' and '.join(BUILT_IN)}, not {shown(name)}")
    return names


def _with_built_in(message: AnyMessage, built_in: Sequence[str]) -> AnyMessage:
    """The system message describes the tools; calls of them and their answers move to the analysis channel."""
    assert isinstance(message, Message)
    if message.author.role == Role.SYSTEM:
        content = message.content[0]
        assert isinstance(content, SystemContent)
        for name in built_in:
            content = content.with_tools(BUILT_IN[name]())
        return Message.from_role_and_content(Role.SYSTEM, content)
    tool = (message.recipient if message.author.role == Role.ASSISTANT else message.author.name) or ""
    bare = tool.removeprefix("functions.")
    if bare.split(".")[0] not in built_in:
        return message
    if message.author.role == Role.ASSISTANT:
        return message.with_recipient(bare).with_channel("analysis").with_content_type("code")
    author = message.author.model_copy(update={"name": bare})
    return message.model_copy(update={"author": author}).with_channel("analysis")


# ---- a conversation's examples --------------------------------------------------------------------------------------


def examples_of(conversation: Conversation, where: str = "") -> list[Example]:
    """What the assistant writes in a conversation, with the prompts that it would have had.

    Each answer drops the chains of thought before it from the prompt, so each turn is an example of its own, unless
    there was none to drop: then what a later turn reads begins with what the earlier one did, and one example
    teaches both. An answer ends in `<|return|>` as target, and in `<|end|>` where it is history.
    Raises HarmonyError where the assistant says nothing.
    """
    messages = list(conversation.messages)
    finals = [i for i, m in enumerate(messages) if _role(m) == "assistant" and _channel(m) == "final"]
    examples: list[Example] = []
    for begin, stop in itertools.pairwise([0, *(i + 1 for i in finals), len(messages)]):
        while stop > begin and _role(messages[stop - 1]) != "assistant":  # a question that nobody answers
            stop -= 1
        if stop > begin:
            example = _turn(messages[:begin], messages[begin:stop], conversation, where)
            if examples and _begins_with(example, examples[-1]):
                example = _merged(examples.pop(), example)
            examples.append(example)
    if not examples:
        raise HarmonyError("the assistant says nothing, so there is nothing to learn")
    return examples


def _turn(history: Sequence[AnyMessage], turn: Sequence[AnyMessage], conversation: Conversation, where: str) -> Example:
    """Targets are the messages of the assistant in `turn`."""
    before = without_old_analysis(history)
    whole = Conversation([*before, *turn], conversation.response_formats)
    rendered = list(_messages(render(whole, keep_analysis=True)))
    opening = 1 + len(encode_ordinary("assistant"))

    tokens: list[int] = []
    written: list[bool] = []
    continues = False  # the assistant goes on after its own `<|end|>`, and so writes the next `<|start|>assistant`
    first = len(rendered) - len(turn)
    for index, part in enumerate(rendered):
        message = turn[index - first] if index >= first else None
        own = message is not None and _role(message) == "assistant"
        if message is not None and own and _channel(message) == "final":
            part = [*part[:-1], RETURN]
        tokens += part
        written += [own and (continues or place >= opening) for place in range(len(part))]
        continues = message is not None and own and not header_and_text(message)[0].is_call
    targets = np.where(written[1:], tokens[1:], IGNORED)
    return Example(np.array(tokens[:-1]), targets, where)


def _messages(tokens: Sequence[int]) -> Iterator[list[int]]:
    """Rendered tokens, a message at a time: text holds no special token, so each `<|start|>` begins one."""
    starts = [place for place, token in enumerate(tokens) if token == START]
    for start, stop in itertools.pairwise([*starts, len(tokens)]):
        yield list(tokens[start:stop])


def _begins_with(example: Example, earlier: Example) -> bool:
    return np.array_equal(example.tokens[: len(earlier)], earlier.tokens)


def _merged(earlier: Example, example: Example) -> Example:
    targets = example.targets.copy()
    targets[: len(earlier)] = np.where(earlier.targets == IGNORED, targets[: len(earlier)], earlier.targets)
    return Example(example.tokens, targets, example.where)


def _role(message: AnyMessage) -> str:
    return header_and_text(message)[0].role


def _channel(message: AnyMessage) -> str | None:
    return header_and_text(message)[0].channel


# ---- packing --------------------------------------------------------------------------------------------------------


def pack(examples: Iterable[Example], pack_tokens: int, *, open_packs: int = 32) -> list[Pack]:
    """Fill packs of at most `pack_tokens` tokens: each example goes into the fullest open pack that has room.

    open_packs: how many are filled at a time; the fullest is closed when another is needed. The order of the examples
    decides, so the same order gives the same packs. Raises ParameterError for an example longer than a pack.
    """
    done: list[list[Example]] = []
    filling: list[tuple[int, list[Example]]] = []  # (tokens, examples), fullest first
    for example in examples:
        if len(example) > pack_tokens:
            raise ParameterError(
                f"{example.where or 'an example'} is {len(example)} tokens long, and a pass has {pack_tokens}",
                hint="Allow more tokens a pass, or shorten the conversation.",
            )
        room = next((i for i, (used, _) in enumerate(filling) if used + len(example) <= pack_tokens), None)
        if room is None:
            if len(filling) == open_packs:
                done.append(filling.pop(0)[1])
            filling.append((len(example), [example]))
        else:
            used, members = filling[room]
            filling[room] = (used + len(example), [*members, example])
        filling.sort(key=lambda entry: -entry[0])
    return [_packed(members) for members in [*done, *(members for _, members in filling)]]


def _packed(examples: Sequence[Example]) -> Pack:
    return Pack(
        np.concatenate([example.tokens for example in examples]),
        np.concatenate([example.targets for example in examples]),
        tuple(map(len, examples)),
    )
