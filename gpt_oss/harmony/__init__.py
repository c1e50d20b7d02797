"""Harmony, the message format that gpt-oss was trained on. Knows tokens and text, nothing of models."""

from gpt_oss.harmony.aliases import Aliases
from gpt_oss.harmony.events import Event, Header, MessageDone, MessageStarted, ParsedMessage, Repaired, TextDelta
from gpt_oss.harmony.from_chat import from_chat, to_chat
from gpt_oss.harmony.from_responses import from_responses, to_responses
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar
from gpt_oss.harmony.history import History, Prompt
from gpt_oss.harmony.parser import Parser, parse
from gpt_oss.harmony.render import Conversation, ResponseFormat, render, render_prompt

__all__ = [
    "Aliases",
    "Conversation",
    "Event",
    "FunctionSchema",
    "Header",
    "History",
    "MessageDone",
    "MessageStarted",
    "ParsedMessage",
    "Parser",
    "Prompt",
    "Repaired",
    "ResponseFormat",
    "TextDelta",
    "answer_grammar",
    "from_chat",
    "from_responses",
    "parse",
    "render",
    "render_prompt",
    "to_chat",
    "to_responses",
]
