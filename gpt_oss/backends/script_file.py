"""A script file, and a generator that plays it back: `gpt-oss serve --script FILE`, for those who test clients.

JSON lines, one answer a line: `{"text": "<|channel|>final<|message|>Hello<|return|>"}`, in which the names of special
tokens stand for them, or `{"tokens": [200005, ...]}`. Either may have `"delay_s"`, a pause before each token.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.errors import ParameterError
from gpt_oss.vocabulary import VOCABULARY_SIZE, decode, encode_with_special

FIELDS = ("text", "tokens", "delay_s")


def read_script(path: Path) -> list[Reply]:
    """The answers in a file, in its order; empty lines count for nothing.

    Raises ParameterError, with the number of the line, for a file that is not as this module says.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ParameterError(f"the script {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"the script {path} is not UTF-8 text") from error
    replies = [_reply(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not replies:
        raise ParameterError(
            f"the script {path} has no answers",
            hint='Give it lines like {"text": "<|channel|>final<|message|>Hello<|return|>"}.',
        )
    return replies


class ScriptFileGenerator(ScriptedGenerator):
    """Plays a script file's answers in order, and the last one for every request after it.

    log: a file to which each prompt is added as one line, `{"text": ..., "tokens": [...]}`, before its answer begins.
    Raises ParameterError for a script or a log that cannot be used.
    """

    def __init__(self, path: Path, *, context_tokens: int, log: Path | None = None) -> None:
        replies = read_script(path)
        self._log = None if log is None else _open_log(log)
        super().__init__(
            _in_order(replies, self._log), name="script", context_tokens=context_tokens, remember_calls=False
        )

    def close(self) -> None:
        super().close()
        if self._log is not None:
            self._log.close()


def _in_order(replies: Sequence[Reply], log: TextIO | None) -> Callable[[list[int]], Reply]:
    coming = itertools.chain(replies, itertools.repeat(replies[-1]))
    lock = threading.Lock()  # the prompts of the log stand in the order of the answers that they got

    def reply(prompt: list[int]) -> Reply:
        with lock:
            if log is not None:
                log.write(json.dumps({"text": decode(prompt), "tokens": prompt}, ensure_ascii=False) + "\n")
                log.flush()
            return next(coming)

    return reply


def _open_log(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"the script's log {path} cannot be written: {error.strerror}") from error


def _reply(line: str, where: str) -> Reply:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ParameterError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ParameterError(f'{where}: an answer is a JSON object with "text" or "tokens"')
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise ParameterError(f"{where}: an answer has no field {unknown[0]!r}, only {', '.join(FIELDS)}")
    if ("text" in fields) == ("tokens" in fields):
        raise ParameterError(f'{where}: an answer has either "text" or "tokens"')
    tokens = _encoded(fields["text"], where) if "text" in fields else _ids(fields["tokens"], where)
    return Reply(tokens, delay_s=_delay(fields.get("delay_s", 0), where))


def _encoded(text: Any, where: str) -> list[int]:
    if not isinstance(text, str) or not text:
        raise ParameterError(f'{where}: "text" is a string that is not empty')
    return encode_with_special(text)


def _ids(tokens: Any, where: str) -> list[int]:
    if not isinstance(tokens, list) or not tokens:
        raise ParameterError(f'{where}: "tokens" is a list of token ids that is not empty')
    for token in tokens:
        if type(token) is not int or not 0 <= token < VOCABULARY_SIZE:
            raise ParameterError(f"{where}: a token id is a number from 0 to {VOCABULARY_SIZE - 1}, not {token!r}")
    return tokens


def _delay(seconds: Any, where: str) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ParameterError(f'{where}: "delay_s" is a number of seconds, 0 or more, not {seconds!r}')
    return float(seconds)
