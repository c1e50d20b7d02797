"""The patch language: what applies, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.errors import PatchError
from gpt_oss.tools.apply_patch import Hunk, apply_hunks, apply_patch, main


def patch(body: str) -> str:
    return f"*** Begin Patch\n{body}\n*** End Patch"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_adds_updates_moves_and_deletes_in_one_patch(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    (tmp_path / "old.txt").write_text("x\n")
    (tmp_path / "gone.txt").write_text("bye\n")
    answer = apply_patch(
        patch(
            "*** Add File: new/deep/file.md\n+# Title\n+\n+text\n"
            "*** Update File: a.py\n@@\n one\n-two\n+2\n three\n"
            "*** Update File: old.txt\n*** Move to: moved/old.txt\n@@\n-x\n+y\n"
            "*** Delete File: gone.txt"
        ),
        tmp_path,
    )
    assert snapshot(tmp_path) == {
        "new/deep/file.md": b"# Title\n\ntext\n",
        "a.py": b"one\n2\nthree\n",
        "moved/old.txt": b"y\n",
    }
    assert answer.splitlines() == [
        "Success. Updated the following files:",
        "A new/deep/file.md",
        "M a.py",
        "M old.txt -> moved/old.txt",
        "D gone.txt",
    ]


def test_a_class_and_a_function_narrow_the_place(tmp_path: Path) -> None:
    body = "class A:\n    def f(self):\n        return 1\n\nclass B:\n    def f(self):\n        return 1\n"
    (tmp_path / "m.py").write_text(body)
    apply_patch(
        patch("*** Update File: m.py\n@@ class B:\n@@     def f(self):\n-        return 1\n+        return 2"), tmp_path
    )
    assert (tmp_path / "m.py").read_text() == body[: body.rindex("1")] + "2\n"


def test_blank_lines_before_the_next_marker_only_separate(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a\nb\n")
    apply_patch(patch("*** Update File: m\n@@\n-a\n+A\n\n@@\n-b\n+B\n"), tmp_path)
    assert (tmp_path / "m").read_text() == "A\nB\n"


def test_end_of_file_prefers_the_last_match(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a\nb\na\n")
    apply_patch(patch("*** Update File: m\n@@\n-a\n+z\n*** End of File"), tmp_path)
    assert (tmp_path / "m").read_text() == "a\nb\nz\n"


@pytest.mark.parametrize(
    ("content", "context"),
    [("key = 1  \n", "key = 1"), ("    key = 1\n", "key = 1"), ("say “hi” – now\n", 'say "hi" - now')],
    ids=["trailing space", "surrounding space", "punctuation"],
)
def test_loose_context_keeps_the_files_own_bytes(tmp_path: Path, content: str, context: str) -> None:
    (tmp_path / "m").write_text(content + "old\n")
    apply_patch(patch(f"*** Update File: m\n@@\n {context}\n-old\n+new"), tmp_path)
    assert (tmp_path / "m").read_text() == content + "new\n"


def test_crlf_survives_and_a_missing_last_newline_is_added(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"a\r\nb\r\nc")
    apply_patch(patch("*** Update File: m\n@@\n a\n-b\n+B\n+B2"), tmp_path)
    assert (tmp_path / "m").read_bytes() == b"a\r\nB\r\nB2\r\nc\n"


def test_additions_alone_go_to_the_end_or_behind_their_anchor(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("def f():\n    pass\n")
    apply_patch(patch("*** Update File: m\n@@ def f():\n+    x = 1\n*** Update File: m\n@@\n+tail"), tmp_path)
    assert (tmp_path / "m").read_text() == "def f():\n    x = 1\n    pass\ntail\n"


@pytest.mark.parametrize("wrap", [str, lambda p: json.dumps({"input": p}), json.dumps, lambda p: f"<<'EOF'\n{p}\nEOF"])
def test_a_patch_comes_bare_in_json_or_in_a_here_document(tmp_path: Path, wrap: object) -> None:
    apply_patch(wrap(patch("*** Add File: f\n+hello")), tmp_path)  # type: ignore[operator]
    assert (tmp_path / "f").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "empty"),
        ("*** Update File: a", "no hunk"),
        ("*** Update File: a\n@@", "is empty"),
        ("*** Update File: missing\n@@\n-x\n+y", "no such file"),
        ("*** Delete File: missing", "no such file"),
        ("*** Update File: a\n@@\n-nope\n+y", "'nope'"),
        ("*** Update File: a\n@@ class Nowhere\n-one\n+y", "class Nowhere"),
        ("*** Update File: a\n@@\n one\n*what", "must start with|expected"),
        ("*** Add File: /etc/passwd\n+x", "absolute"),
        ("*** Add File: ../x\n+x", r"'\.\.'"),
        ("*** Add File: link/x\n+x", "symbolic link"),
        ("*** Delete File: folder", "directory"),
        ("*** Add File: a/b\n+x", "not a directory"),
        ("*** Update File: a\n*** Move to: ../x\n@@\n-one\n+1", r"'\.\.'"),
        ("*** Rename File: a", "expected"),
        ("*** Update File: binary\n@@\n-x\n+y", "UTF-8"),
    ],
)
def test_a_refused_patch_changes_no_byte(tmp_path: Path, body: str, message: str) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "a").write_text("one\ntwo\n")
    (root / "binary").write_bytes(b"\xff\xfe\x00")
    (root / "link").symlink_to(tmp_path)
    before = snapshot(tmp_path)
    first = "*** Update File: a\n@@\n-two\n+2\n" if body else ""
    with pytest.raises(PatchError, match=message):
        apply_patch(patch(first + body), root)
    assert snapshot(tmp_path) == before


def test_a_failing_write_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("one\n")
    before = snapshot(tmp_path)
    replace, calls = os.replace, []

    def fail_on_second(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_second)
    with pytest.raises(PatchError, match="nothing was changed: No space left"):
        apply_patch(patch("*** Update File: a\n@@\n-one\n+1\n*** Add File: new/b\n+x"), tmp_path)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a\n")
    (tmp_path / "run").chmod(0o751)
    apply_patch(patch("*** Update File: run\n@@\n-a\n+b"), tmp_path)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o751


def test_the_command_reads_stdin_and_exits_with_2_on_a_bad_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(patch("*** Add File: f\n+x")))
    assert main(["--root", str(tmp_path)]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("no patch"))
    assert main(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("gpt-oss: line 1: a patch starts with")


LINE = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)


@given(st.lists(LINE, min_size=1, max_size=12), st.data())
def test_any_replaced_slice_of_unique_lines_comes_out_as_meant(lines: list[str], data: st.DataObject) -> None:
    lines = [f"{i}:{line}" for i, line in enumerate(lines)]
    start = data.draw(st.integers(0, len(lines) - 1))
    stop = data.draw(st.integers(start + 1, len(lines)))
    new = data.draw(st.lists(LINE, max_size=4))
    result = apply_hunks("f", "\n".join(lines) + "\n", [Hunk(1, (), tuple(lines[start:stop]), tuple(new))])
    assert result == "".join(line + "\n" for line in [*lines[:start], *new, *lines[stop:]])


@given(st.text(alphabet="*+-@ \nabAdUpteFil:EndBgPach", max_size=200))
def test_no_text_whatsoever_raises_anything_but_patch_error(text: str) -> None:
    try:
        apply_patch(f"*** Begin Patch\n*** Update File: nothing-here\n{text}\n*** End Patch", "/nonexistent-root")
    except PatchError:
        return
    raise AssertionError("a file that does not exist cannot be updated")
