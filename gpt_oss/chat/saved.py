"""A conversation as a JSON file, with nothing lost: what the model wrote is kept by its very tokens.

{"format": "gpt-oss chat", "version": 1, "model": "…", "reasoning_effort": "low", "messages": [
  {"message": {a message as openai-harmony writes it}},
  {"sampled": {"header": {…}, "content": "…", "tokens": [1, 2], "ended_by": 200007, "repairs": []}}]}
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic
from openai_harmony import Message

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.harmony.history import EFFORTS
from gpt_oss.harmony.render import AnyMessage, Conversation, render_prompt

FORMAT, VERSION = "gpt-oss chat", 1


@dataclass(frozen=True)
class SavedChat:
    model: str
    reasoning_effort: str
    messages: tuple[AnyMessage, ...]


_SAMPLED = pydantic.TypeAdapter(ParsedMessage)


def save(path: Path, chat: SavedChat) -> None:
    """Write it, whole or not at all. Raises ParameterError where it cannot, or where another file has that name."""
    if path.exists() and not _is_chat(path):
        raise ParameterError(f"{path} exists and is not a saved chat: choose another name")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": chat.model,
        "reasoning_effort": chat.reasoning_effort,
        "messages": [_to_json(message) for message in chat.messages],
    }
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".gpt-oss-") as folder:
            part = Path(folder, "chat.json")
            part.write_text(json.dumps(document), encoding="ascii")
            part.replace(path)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def read(path: Path) -> SavedChat:
    """Raises ParameterError, with the place, for a file that is not a whole chat."""
    if not path.is_file():
        raise ParameterError(f"there is no file {path}")
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise ParameterError(f"{path} is not a saved chat: it is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ParameterError(f'{path} is not a saved chat: it lacks "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ParameterError(f"{path} has version {document.get('version')!r}, and this program reads {VERSION}")
    effort = document.get("reasoning_effort")
    entries = document.get("messages")
    if not isinstance(effort, str) or effort not in EFFORTS or not isinstance(entries, list):
        raise ParameterError(f"{path} is damaged: it needs reasoning_effort ({', '.join(EFFORTS)}) and messages")
    messages = []
    for number, entry in enumerate(entries):
        try:
            messages.append(_from_json(entry))
        except (ValueError, TypeError, KeyError, AttributeError, HarmonyError):
            raise ParameterError(f"{path} is damaged: message {number} cannot be read") from None
    return SavedChat(str(document.get("model", "")), effort, tuple(messages))


def _is_chat(path: Path) -> bool:
    try:
        read(path)
    except ParameterError:
        return False
    return True


def _to_json(message: AnyMessage) -> dict[str, Any]:
    if isinstance(message, ParsedMessage):
        return {"sampled": asdict(message)}
    return {"message": message.to_dict()}


def _from_json(entry: dict[str, Any]) -> AnyMessage:
    (kind,) = entry
    if kind == "sampled":
        message: AnyMessage = _SAMPLED.validate_python(entry[kind])
    elif kind == "message":
        message = Message.from_dict(entry[kind])
    else:
        raise ValueError(kind)
    render_prompt(Conversation([message]))  # raises for what could not go into a prompt later
    return message
