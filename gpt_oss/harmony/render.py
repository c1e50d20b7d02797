"""From messages to the tokens of a prompt.

openai-harmony's rendering, with the differences that its own parser and its users need:
history is written the way the model writes it (recipient behind the channel; sampled messages by their very tokens),
finished chains of thought are dropped turn by turn, schemas are faithful, `# Response Formats` exists, and without
functions there is no commentary channel. What users wrote is ordinary text: nothing in it can become a special token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from openai_harmony import DeveloperContent, Message, Role, SystemContent, TextContent, ToolNamespaceConfig

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.harmony.schema import comment, function_type
from gpt_oss.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode_ordinary

CONSTRAIN_MARK = "<|constrain|>"


@dataclass(frozen=True)
class ResponseFormat:
    """A schema that the final answer shall follow: a section at the end of the developer message.

    strict: the client was promised that the answer follows it.
    where: its place in the request, for errors.
    """

    name: str
    schema: Mapping[str, Any]
    description: str | None = None
    strict: bool = False
    where: str = "response_schema"


@dataclass(frozen=True)
class Conversation:
    """What a prompt is made of. A ParsedMessage is one that the model wrote: its tokens go back as they were."""

    messages: Sequence[Message | ParsedMessage]
    response_formats: Sequence[ResponseFormat] = field(default_factory=tuple)


AnyMessage: TypeAlias = Message | ParsedMessage


def render_prompt(conversation: Conversation, *, keep_analysis: bool = False) -> list[int]:
    """Tokens that ask for the assistant's next message: the conversation, then `<|start|>assistant`."""
    return [*render(conversation, keep_analysis=keep_analysis), START, *encode_ordinary("assistant")]


def render(conversation: Conversation, *, keep_analysis: bool = False) -> list[int]:
    """Tokens of a conversation. Finished chains of thought are dropped unless `keep_analysis`.

    Raises HarmonyError for a message that has no rendering (a role or content that does not exist).
    """
    messages = list(conversation.messages) if keep_analysis else without_old_analysis(conversation.messages)
    functions = any(_has_functions(message) for message in messages)
    last_developer = max((i for i, m in enumerate(messages) if _role(m) == "developer"), default=None)
    formats = conversation.response_formats
    tokens: list[int] = []
    if formats and last_developer is None:
        first = next((i for i, m in enumerate(messages) if _role(m) != "system"), len(messages))
        messages.insert(first, Message.from_role_and_content(Role.DEVELOPER, DeveloperContent.new()))
        last_developer = first
    for index, message in enumerate(messages):
        if isinstance(message, ParsedMessage):
            tokens += _sampled(message)
        else:
            tokens += _message(message, functions, formats if index == last_developer else ())
    return tokens


def without_old_analysis(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The messages without the analysis channel (thoughts, built-in calls and their results) before the last answer."""
    finals = [i for i, m in enumerate(messages) if _role(m) == "assistant" and _channel(m) == "final"]
    last = finals[-1] if finals else -1
    return [m for i, m in enumerate(messages) if i > last or _channel(m) != "analysis"]


def _role(message: AnyMessage) -> str:
    return message.header.role if isinstance(message, ParsedMessage) else str(message.author.role.value)


def _channel(message: AnyMessage) -> str | None:
    return message.header.channel if isinstance(message, ParsedMessage) else message.channel


def _has_functions(message: AnyMessage) -> bool:
    if isinstance(message, ParsedMessage):
        return False
    contents = [c for c in message.content if isinstance(c, DeveloperContent | SystemContent)]
    return any("functions" in (content.tools or {}) for content in contents)


def _sampled(message: ParsedMessage) -> list[int]:
    """Its own tokens, closed as history is: `<|end|>`, or `<|call|>` behind a call. A broken one is written anew."""
    header = message.header
    end = CALL if header.is_call else END
    if message.repairs:
        content = [MESSAGE, *encode_ordinary(message.content), end]
        return [*_header(header.role, header.name, header.recipient, header.channel, header.content_type), *content]
    tokens = list(message.tokens)
    if tokens[:1] != [START]:  # the prompt had opened it
        tokens = [START, *encode_ordinary(header.role), *tokens]
    if message.ended_by is None:
        return [*tokens, end]
    return [*tokens[:-1], end if message.ended_by == RETURN or header.is_call else tokens[-1]]


def _message(message: Message, functions: bool, formats: Sequence[ResponseFormat]) -> list[int]:
    role = str(message.author.role.value)
    tokens = _header(role, message.author.name, message.recipient, message.channel, message.content_type)
    tokens.append(MESSAGE)
    for content in message.content:
        if isinstance(content, TextContent):
            text = content.text
        elif isinstance(content, SystemContent):
            text = system_text(content, functions)
        elif isinstance(content, DeveloperContent):
            text = developer_text(content, formats)
        else:
            raise HarmonyError(f"a {role} message has content of type {type(content).__name__}, which has no rendering")
        tokens += encode_ordinary(text)
    called = role == "assistant" and message.recipient not in (None, "all") and message.channel != "final"
    return [*tokens, CALL if called else END]


def _header(
    role: str, name: str | None, recipient: str | None, channel: str | None, content_type: str | None
) -> list[int]:
    recipient = None if recipient == "all" else recipient
    who = (name or "tool") if role == "tool" else f"{role}:{name}" if name else role
    to = f" to={recipient}" if recipient else ""
    # The model names the recipient behind the channel, so history does as well; a tool's answer names it in front.
    to_behind = to if role == "assistant" and channel else ""
    tokens = [START, *encode_ordinary(who + ("" if to_behind else to))]
    if channel:
        tokens += [CHANNEL, *encode_ordinary(channel + to_behind)]
    if content_type and content_type.startswith(CONSTRAIN_MARK):
        tokens += [*encode_ordinary(" "), CONSTRAIN, *encode_ordinary(content_type.removeprefix(CONSTRAIN_MARK))]
    elif content_type:
        tokens += encode_ordinary(f" {content_type}")
    return tokens


def system_text(content: SystemContent, functions: bool) -> str:
    """The system message's text; `functions`: whether the developer message declares any."""
    head = []
    if content.model_identity is not None:
        head.append(content.model_identity)
    if content.knowledge_cutoff is not None:
        head.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.conversation_start_date is not None:
        head.append(f"Current date: {content.conversation_start_date}")
    sections = ["\n".join(head)] if head else []
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort.value.lower()}")
    if content.tools:
        sections.append(tools_text(content.tools))
    if content.channel_config and content.channel_config.valid_channels:
        channels = list(content.channel_config.valid_channels)
        if not functions and channels == ["analysis", "commentary", "final"]:
            channels.remove("commentary")  # nothing may be called there, and the model would try
        line = f"# Valid channels: {', '.join(channels)}."
        if content.channel_config.channel_required:
            line += " Channel must be included for every message."
        if functions:
            line += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(line)
    return "\n\n".join(sections)


def developer_text(content: DeveloperContent, formats: Sequence[ResponseFormat] = ()) -> str:
    sections = []
    if content.instructions:
        sections.append(f"# Instructions\n\n{content.instructions}")
    if content.tools:
        sections.append(tools_text(content.tools))
    if formats:
        sections.append("# Response Formats\n\n" + "\n\n".join(map(_format_text, formats)))
    return "\n\n".join(sections)


def _format_text(response: ResponseFormat) -> str:
    schema = json.dumps(response.schema, ensure_ascii=False, separators=(",", ":"))
    return "\n\n".join([f"## {response.name}", "\n".join([*comment(response.description), schema])])


def tools_text(namespaces: Mapping[str, ToolNamespaceConfig]) -> str:
    return "\n\n".join(["# Tools", *map(_namespace_text, namespaces.values())])


def _namespace_text(namespace: ToolNamespaceConfig) -> str:
    if not namespace.tools:  # free text, like python's
        return f"## {namespace.name}\n\n{namespace.description or ''}"
    taken = {tool.name for tool in namespace.tools}
    types = "".join(f"{function_type(t.name, t.description, t.parameters, taken)}\n\n" for t in namespace.tools)
    head = "\n".join([*comment(namespace.description), f"namespace {namespace.name} {{"])
    return f"## {namespace.name}\n\n{head}\n\n{types}}} // namespace {namespace.name}"
