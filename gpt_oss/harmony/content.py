"""Contents of messages, in every form that clients send them, as the text that the models read.

What is not text (pictures, recordings, files) becomes a short note: a conversation that holds some can go on. Only
where a user has just sent it is it refused, for an answer would be about what the model has not seen; and not where a
result of a tool stands just before it, for many clients send what a tool has read as if the user had.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.json_types import LIST, Json, kind_of, shown

PARAGRAPH = "\n\n"
_KINDS = {
    "image": "a picture",
    "image_url": "a picture",
    "input_image": "a picture",
    "computer_screenshot": "a picture",
    "audio": "a recording",
    "input_audio": "a recording",
    "video": "a video",
    "video_url": "a video",
    "input_video": "a video",
    "document": "a file",
    "file": "a file",
    "input_file": "a file",
    "output_file": "a file",
    "container_upload": "a file",
    "blob": "a file",
}
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text")
_PLAIN = (None, "text", "input_text", "output_text", "refusal")
_TEXT_FILE = re.compile(r"(text/[\w.+-]+|application/(json|xml|yaml|x-yaml|toml|javascript|x-sh|sql))\b")
_TEXT_ENDINGS = (".txt", ".md", ".csv", ".json", ".log", ".xml", ".yaml", ".py")
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),(.*)", re.DOTALL)


def newest_question(roles: Sequence[str]) -> int | None:
    """The index of the last "user" among the roles of messages: what is not text is refused there.

    None where there is none, and where a "tool" is the last before it that is neither "user" nor "system".
    """
    newest = max((number for number, role in enumerate(roles) if role == "user"), default=None)
    before = [role for role in roles[:newest] if role not in ("user", "system", "developer")]
    return None if before[-1:] == ["tool"] else newest


def text_of(content: Any, where: str, *, newest: bool = False, between: str = "") -> str:
    """The text of a message's content: a string, or a list of parts in the form of any API.

    newest: the content is what a user has just sent: what is not text is refused there.
    between: what stands between two parts; a file or a note has a line of its own in any case.
    Raises HarmonyError, naming the place.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping) and ("text" in content or "type" in content):
        content = [content]
    if not LIST.holds(content):
        raise HarmonyError(f"{where} must be a string or a list of text parts, not {kind_of(content)}", field=where)
    pieces: list[str] = []
    after_plain = True
    for number, part in enumerate(content):
        if isinstance(part, Mapping) and part.get("type") in _THOUGHTS:
            continue
        is_plain = isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") in _PLAIN)
        more = part_text(part, f"{where}[{number}]", newest=newest)
        if pieces:
            pieces.append(between if is_plain and after_plain else between or "\n")
        pieces.append(more)
        after_plain = is_plain
    return "".join(pieces)


def thoughts_of(content: Any) -> str:
    """The text of the thoughts among a content's parts: `thinking` of Anthropic's, `reasoning` of others."""
    if not LIST.holds(content):
        return ""
    return "".join(_thought(part) for part in content if isinstance(part, Mapping) and part.get("type") in _THOUGHTS)


def _thought(part: Json) -> str:
    found = next((part[key] for key in ("thinking", "reasoning", "text") if isinstance(part.get(key), str)), "")
    return str(found) or text_of(part.get("content") or part.get("summary"), "")


def part_text(part: Any, where: str, *, newest: bool = False) -> str:
    """The text of one part; see `text_of`. Raises HarmonyError."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise HarmonyError(f"{where}: gpt-oss reads text, not {kind_of(part)}", field=where)
    match part:
        case {"type": "document" | "file" | "input_file" | "output_file"}:
            text = file_text(part)
            return text if text is not None else _not_text(part, where, newest)
        case {"type": "search_result", "content": content}:
            head = [str(part[key]) for key in ("title", "source") if part.get(key)]
            return "\n".join([*head, text_of(content, where, between="\n")])
        case {"type": "web_search_result" | "web_search_result_location"}:
            return "\n".join(str(part[key]) for key in ("title", "url", "cited_text") if part.get(key))
        case {"type": "tool_reference", "tool_name": str(name)}:
            return f"[the tool {name}]"
        case {"type": "resource_link"}:
            return f"[{part.get('name') or 'a resource'}: {part.get('uri')}]"
        case {"type": "resource", "resource": Mapping() as resource}:
            inner = resource.get("text")
            return inner if isinstance(inner, str) else note_of("blob", resource.get("uri"))
        case {"text": str(text)} | {"refusal": str(text)}:
            return text
    return _not_text(part, where, newest)


def _not_text(part: Json, where: str, newest: bool) -> str:
    kind = part.get("type")
    if newest:
        what = shown(kind) if "type" in part else kind_of(part)
        raise HarmonyError(
            f"{where}: gpt-oss reads text, not {what} (text only: say in words what it holds, or leave it out)",
            field=where,
        )
    return note_of(str(kind), part.get("filename") or part.get("title") or part.get("name"))


def note_of(kind: str, name: object = None) -> str:
    """What the model reads in place of a part that is not text."""
    what = _KINDS.get(kind, f"a part of type {shown(kind)}")
    return f"[{what}{f' ({name})' if name else ''}; this model reads text only]"


def file_text(part: Json) -> str | None:
    """The text in a part that is a file, with its name before it; None where it is none that can be read.

    Understood are `document` of Anthropic (source: text, content, base64), `file` of Chat Completions and `input_file`
    of Responses (file_data: a data URL, or base64).
    """
    inner = part.get("file")
    file: Json = inner if isinstance(inner, Mapping) else part
    name = next((file[key] for key in ("filename", "title", "name") if isinstance(file.get(key), str)), None)
    text = _source_text(file.get("source"))
    if text is None:
        text = _data_text(file.get("file_data"), str(name or ""))
    if text is None and isinstance(file.get("text"), str):
        text = file["text"]
    if text is None:
        return None
    return f"{name}\n{text}" if name else text


def _source_text(source: Any) -> str | None:
    match source:
        case {"type": "text", "data": str(text)}:
            return text
        case {"type": "content", "content": content}:
            return text_of(content, "", between="\n")
        case {"type": "base64", "media_type": str(kind), "data": str(data)} if _TEXT_FILE.match(kind):
            return _decoded(data)
    return None


def _data_text(data: Any, name: str) -> str | None:
    if not isinstance(data, str):
        return None
    url = _DATA_URL.fullmatch(data)
    if url is None:
        return _decoded(data) if name.endswith(_TEXT_ENDINGS) else None
    if not _TEXT_FILE.match(url[1]):
        return None
    if ";base64" in url[2]:
        return _decoded(url[3])
    return unquote_to_bytes(url[3]).decode(errors="replace")


def _decoded(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=False).decode(errors="replace")
    except (binascii.Error, ValueError):
        return None


def texts_of(parts: Sequence[Any] | None, where: str) -> str:
    """The texts of a list of `{text: …}` parts, nothing else. Raises HarmonyError, naming the place."""
    texts = []
    for number, part in enumerate(parts or []):
        here = f"{where}[{number}]"
        if not isinstance(part, Mapping):
            raise HarmonyError(f"{here} must be an object, not {kind_of(part)}", field=here)
        if not isinstance(part.get("text"), str):
            raise HarmonyError(f"{here} needs text, a string", field=here)
        texts.append(part["text"])
    return "".join(texts)
