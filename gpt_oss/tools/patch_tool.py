"""`functions.apply_patch`: the patch language as a function of the developer message, as the models were trained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from openai_harmony import Message

from gpt_oss.errors import PatchError
from gpt_oss.tools.apply_patch import apply_patch
from gpt_oss.tools.functions import FunctionTool
from gpt_oss.tools.tool import answer, text_of

INSTRUCTIONS = """\
When asked to change, add or delete files, call the function `apply_patch` with one patch that does all of it. A patch:

*** Begin Patch
*** Add File: path/of/a/new/file
+every line of it
*** Update File: path/of/a/file
@@ def the_function_or_class_around
 a line of context, as the file has it
-a line to remove
+a line to put in
*** Delete File: path/of/another/file
*** End Patch

Behind `*** Update File:` a line `*** Move to: new/path` renames the file. Show about three lines of context above and
below each change; where they do not single it out, name the class or function around it behind `@@`. Paths are relative
to the folder that you work in, never absolute."""


class ApplyPatchTool(FunctionTool):
    """Edits files under `root` and nowhere else. A patch that does not fit is answered with the line that does not.

    The patch may come as it is, as a JSON string, or inside a JSON object.
    """

    def __init__(self, root: str | Path = ".") -> None:
        parameters = {"type": "string", "description": "The patch, from *** Begin Patch to *** End Patch"}
        super().__init__("apply_patch", "Change files: add, update, move or delete them.", parameters, _unused)
        self._root = Path(root)

    @property
    def instruction(self) -> str:
        return INSTRUCTIONS

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        # Shielded: a patch under way is finished, for half of one must never be on the disk.
        work = asyncio.ensure_future(asyncio.to_thread(apply_patch, text_of(message), self._root))
        failed = True
        try:
            text = await asyncio.shield(work)
            failed = False
        except PatchError as error:
            text = f"Error: {error}"
        except OSError as error:
            text = f"Error: {error.strerror or error} ({error.filename})"
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        yield answer(message, text, failed=failed)


async def _unused(arguments: dict[str, object]) -> object:
    raise AssertionError("ApplyPatchTool reads its argument itself")
