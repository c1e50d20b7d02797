"""The patch language that the models were trained to write, applied all or nothing under one folder.

    *** Begin Patch
    *** Add File: path            then lines that start with +
    *** Delete File: path
    *** Update File: path         then, optionally, *** Move to: path, then hunks
    @@ class or function          narrows where the hunk is looked for; several may follow each other
     context
    -old line
    +new line
    *** End of File               the hunk stands at the end of the file
    *** End Patch

Covered: every file is parsed and matched before the first byte is written; each write is a temporary file and a
rename; a failure while writing puts back what was there. Paths may not leave the root, by `..`, by being absolute or
through a symbolic link. Not covered: another program that changes the same files at the same moment.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpt_oss.errors import PatchError

BEGIN, END = "*** Begin Patch", "*** End Patch"
ADD, DELETE, UPDATE, MOVE = "*** Add File:", "*** Delete File:", "*** Update File:", "*** Move to:"
END_OF_FILE = "*** End of File"


@dataclass(frozen=True)
class Hunk:
    """Lines to find and what replaces them. `anchors` are the @@ headers, outermost first."""

    line: int  # of the patch, 1-based, where the hunk starts
    anchors: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str, ...]
    at_end: bool = False


@dataclass(frozen=True)
class AddFile:
    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class DeleteFile:
    path: str


@dataclass(frozen=True)
class UpdateFile:
    path: str
    move_to: str | None
    hunks: tuple[Hunk, ...]


Change = AddFile | DeleteFile | UpdateFile


@dataclass
class Plan:
    """What the disk shall hold: path -> new bytes, or None where the file goes. Later changes see earlier ones."""

    files: dict[Path, bytes | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def apply_patch(text: str, root: str | Path = ".") -> str:
    """Apply a patch, given as text or as a JSON object with one string in it, to the files under `root`.

    Returns a summary, a line a file: `A path`, `M path`, `D path`. Raises PatchError, naming file and line; then
    nothing was changed.
    """
    folder = Path(root).resolve()
    changes = parse(unwrap(text))
    plan = Plan()
    for change in changes:
        _plan_change(change, folder, plan)
    _write(plan)
    return "Success. Updated the following files:\n" + "\n".join(plan.notes)


def unwrap(text: str) -> str:
    """The patch itself: models send it bare, or as JSON `{"input": "…"}` or `"…"`, or in a here-document."""
    stripped = text.strip()
    if stripped[:1] in ("{", '"'):
        try:
            value = json.loads(stripped, strict=False)
        except ValueError:
            raise PatchError("the patch looks like JSON but is not valid JSON: send the patch text itself") from None
        if isinstance(value, dict) and len(value) == 1:
            (value,) = value.values()
        if isinstance(value, list) and value and value[0] == "apply_patch":
            value = value[-1]
        if not isinstance(value, str):
            raise PatchError("the JSON argument must hold exactly one string, the patch")
        stripped = value.strip()
    lines = stripped.split("\n")
    if lines[0].strip() in ("<<EOF", "<<'EOF'", '<<"EOF"') and lines[-1].strip() == "EOF":
        stripped = "\n".join(lines[1:-1]).strip()
    return stripped


# Parsing


def parse(patch: str) -> list[Change]:
    """The changes of a patch, in order. White space around markers is forgiven."""
    lines = [line.removesuffix("\r") for line in patch.split("\n")]
    if not lines or lines[0].strip() != BEGIN:
        raise PatchError(f"line 1: a patch starts with '{BEGIN}'")
    if lines[-1].strip() != END:
        raise PatchError(f"line {len(lines)}: a patch ends with '{END}'")
    reader = _Reader(lines, 1, len(lines) - 1)
    changes: list[Change] = []
    while not reader.done():
        changes.append(_parse_change(reader))
    if not changes:
        raise PatchError("the patch is empty: it names no file")
    return changes


@dataclass
class _Reader:
    lines: list[str]
    next: int  # index of the line to read
    stop: int  # index of *** End Patch

    def done(self) -> bool:
        while self.next < self.stop and not self.lines[self.next].strip():
            self.next += 1
        return self.next >= self.stop

    def peek(self) -> str | None:
        return self.lines[self.next] if self.next < self.stop else None

    def take_path(self, marker: str) -> str | None:
        """The path behind `marker`, if that is what stands here."""
        line = (self.peek() or "").strip()
        if not line.startswith(marker):
            return None
        path = line[len(marker) :].strip()
        if not path:
            raise PatchError(f"line {self.next + 1}: '{marker}' names no path")
        self.next += 1
        return path


def _starts_change(line: str) -> bool:
    return line.strip().startswith((ADD, DELETE, UPDATE))


def _parse_change(reader: _Reader) -> Change:
    if (path := reader.take_path(ADD)) is not None:
        lines = []
        while (line := reader.peek()) is not None and line.startswith("+"):
            lines.append(line[1:])
            reader.next += 1
        return AddFile(path, tuple(lines))
    if (path := reader.take_path(DELETE)) is not None:
        return DeleteFile(path)
    if (path := reader.take_path(UPDATE)) is not None:
        move_to = reader.take_path(MOVE)
        hunks: list[Hunk] = []
        while not reader.done() and not _starts_change(reader.peek() or ""):
            hunks.append(_parse_hunk(reader, path, first=not hunks))
        if not hunks and move_to is None:
            raise PatchError(f"{path}: the update has no hunk")
        return UpdateFile(path, move_to, tuple(hunks))
    raise PatchError(
        f"line {reader.next + 1}: expected '{ADD} …', '{UPDATE} …' or '{DELETE} …', found {reader.peek()!r}"
    )


def _parse_hunk(reader: _Reader, path: str, *, first: bool) -> Hunk:
    start = reader.next + 1
    anchors = []
    headed = False
    while (line := reader.peek()) is not None and line.strip().startswith("@@"):
        headed = True
        if anchor := line.strip()[2:].strip().removesuffix("@@").strip():
            anchors.append(anchor)
        reader.next += 1
    if not headed and not first:
        raise PatchError(
            f"{path}: line {start} of the patch: expected '@@' before the next hunk, found {reader.peek()!r}"
        )
    old: list[str] = []
    new: list[str] = []
    at_end = False
    while (line := reader.peek()) is not None and not line.startswith("@@"):
        if line.strip() == END_OF_FILE:
            at_end = True
            reader.next += 1
            break
        if _starts_change(line):
            break
        mark, content = line[:1], line[1:]
        if mark not in ("", " ", "+", "-"):
            if old or new:
                break
            raise PatchError(f"{path}: line {reader.next + 1} of the patch must start with ' ', '+' or '-': {line!r}")
        if mark != "+":
            old.append(content)
        if mark != "-":
            new.append(content)
        reader.next += 1
    if not old and not new:
        raise PatchError(f"{path}: the hunk at line {start} of the patch is empty")
    return Hunk(start, tuple(anchors), tuple(old), tuple(new), at_end)


# Matching


def _plan_change(change: Change, root: Path, plan: Plan) -> None:
    target = resolve(root, change.path)
    if isinstance(change, AddFile):
        replaces = _read(target, plan) is not None
        plan.files[target] = "".join(line + "\n" for line in change.lines).encode()
        plan.notes.append(f"A {change.path}" + (" (replaced the file that was there)" if replaces else ""))
        return
    before = _read(target, plan)
    if before is None:
        raise PatchError(f"{change.path}: there is no such file")
    if isinstance(change, DeleteFile):
        plan.files[target] = None
        plan.notes.append(f"D {change.path}")
        return
    try:
        text = before.decode("utf-8")
    except UnicodeDecodeError:
        raise PatchError(f"{change.path}: the file is not UTF-8 text") from None
    after = apply_hunks(change.path, text, change.hunks).encode()
    if change.move_to is None:
        plan.files[target] = after
        plan.notes.append(f"M {change.path}")
        return
    destination = resolve(root, change.move_to)
    replaces = destination != target and _read(destination, plan) is not None
    plan.files[target] = None
    plan.files[destination] = after
    plan.notes.append(
        f"M {change.path} -> {change.move_to}" + (" (replaced the file that was there)" if replaces else "")
    )


def resolve(root: Path, path: str) -> Path:
    """The file that `path` means under `root`. Raises PatchError where it would leave it."""
    if "\0" in path:
        raise PatchError(f"{path!r}: a path cannot hold a NUL")
    if path.startswith(("/", "\\", "~")) or Path(path).is_absolute() or (len(path) > 1 and path[1] == ":"):
        raise PatchError(f"{path}: give a path relative to the project, not an absolute one")
    if ".." in path.replace("\\", "/").split("/"):
        raise PatchError(f"{path}: '..' is not allowed")
    target = root / path
    real = target.resolve()
    if not real.is_relative_to(root):
        raise PatchError(f"{path}: a symbolic link leads out of the project")
    if real == root or real.is_dir():
        raise PatchError(f"{path}: this is a directory")
    blocker = next((parent for parent in real.parents if parent.exists()), root)
    if not blocker.is_dir():
        raise PatchError(f"{path}: {blocker.name} is a file, not a directory")
    return real


def _read(path: Path, plan: Plan) -> bytes | None:
    if path in plan.files:
        return plan.files[path]
    if not path.exists():
        return None
    if not stat.S_ISREG(path.stat().st_mode):
        raise PatchError(f"{path.name}: not a regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise PatchError(f"{path.name}: cannot be read: {error.strerror}") from None


def apply_hunks(path: str, text: str, hunks: Sequence[Hunk]) -> str:
    """`text` with the hunks applied, in order from top to bottom; it ends in a newline, and CRLF survives."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    crlf = sum(line.endswith("\r") for line in lines) * 2 > len(lines)
    bare = [line.removesuffix("\r") for line in lines]
    result: list[str] = []
    cursor = 0  # lines before it are settled
    for hunk in hunks:
        hunk, at = _find_hunk(path, bare, hunk, cursor)
        result += lines[cursor:at]
        result += _replacement(lines[at : at + len(hunk.old)], hunk, "\r" if crlf else "")
        cursor = at + len(hunk.old)
    result += lines[cursor:]
    return "".join(line + "\n" for line in result)


def _replacement(found: Sequence[str], hunk: Hunk, ending: str) -> list[str]:
    """The new lines; context keeps the file's own bytes, for a match may have been a loose one."""
    kept = {}
    index = 0
    for position, line in enumerate(hunk.new):
        if index < len(hunk.old) and line in hunk.old[index:]:
            index = hunk.old.index(line, index)
            kept[position] = found[index]
            index += 1
    return [kept.get(position, line + ending) for position, line in enumerate(hunk.new)]


def _find_hunk(path: str, lines: Sequence[str], hunk: Hunk, start: int) -> tuple[Hunk, int]:
    """The hunk as it fits and the index of the line where it does."""
    where = start
    for anchor in hunk.anchors:
        at = _find(lines, (anchor,), where)
        if at is None:
            raise PatchError(f"{path}: the line '@@ {anchor}' of the patch is not in the file (after line {where})")
        where = at + 1
    if not hunk.old:
        return hunk, where if hunk.anchors and not hunk.at_end else len(lines)
    # The anchor may be repeated as the first line of context; empty lines at a hunk's end may only separate it.
    for reading in (hunk, _without_trailing_blanks(hunk)):
        for first in (where, max(where - 1, start)):
            at = _find(lines, reading.old, first, at_end=hunk.at_end)
            if at is not None and reading.old:
                return reading, at
    missing = next((line for line in hunk.old if line.strip() and _find(lines, (line,), start) is None), None)
    detail = f"; this line is not there: {missing!r}" if missing is not None else ""
    shown = "\n".join(hunk.old[:6])
    raise PatchError(
        f"{path}: the hunk at line {hunk.line} of the patch does not match the file{detail}. Expected:\n{shown}"
    )


def _without_trailing_blanks(hunk: Hunk) -> Hunk:
    old, new = list(hunk.old), list(hunk.new)
    while old and new and old[-1] == new[-1] == "":
        old.pop()
        new.pop()
    return replace(hunk, old=tuple(old), new=tuple(new))


PUNCTUATION = str.maketrans(
    {**dict.fromkeys("‐‑‒–—―−", "-"), **dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("“”„‟«»", '"'), "…": "..."}
)


def _fold(line: str) -> str:
    return unicodedata.normalize("NFKC", line).translate(PUNCTUATION).strip()


# Strict first, then each looser reading that the models' slips need.
READINGS: tuple[Callable[[str], str], ...] = (str, str.rstrip, str.strip, _fold)


def _find(lines: Sequence[str], wanted: Sequence[str], start: int, *, at_end: bool = False) -> int | None:
    """First index at or after `start` where `wanted` stands; with at_end, the end of the file is tried first."""
    last = len(lines) - len(wanted)
    for reading in READINGS:
        target = [reading(line) for line in wanted]
        candidates = [last, *range(start, last + 1)] if at_end and last >= start else range(start, last + 1)
        for at in candidates:
            if all(reading(lines[at + i]) == line for i, line in enumerate(target)):
                return at
    return None


# Writing


def _write(plan: Plan) -> None:
    """Put the plan on disk; if a step fails, undo the ones before it."""
    undo: list[tuple[Path, bytes | None, int]] = []
    made: list[Path] = []
    try:
        for path, content in plan.files.items():
            exists = path.exists()
            undo.append((path, path.read_bytes() if exists else None, path.stat().st_mode if exists else 0o666))
            if content is None:
                path.unlink(missing_ok=True)
            else:
                made += _make_folders(path.parent)
                _replace(path, content, stat.S_IMODE(path.stat().st_mode) if exists else None)
    except OSError as error:
        for path, before, mode in reversed(undo):
            if before is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_bytes() != before:
                _replace(path, before, stat.S_IMODE(mode))
        for folder in reversed(made):
            folder.rmdir()
        raise PatchError(f"nothing was changed: {error.strerror}: {error.filename}") from None


def _make_folders(folder: Path) -> list[Path]:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
    return missing[::-1]


def _replace(path: Path, content: bytes, mode: int | None) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".patch-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpt-oss apply-patch", description="Apply a patch from stdin.")
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of the files (default: here)")
    args = parser.parse_args(argv)
    try:
        print(apply_patch(sys.stdin.read(), args.root))
    except PatchError as error:
        print(f"gpt-oss: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
