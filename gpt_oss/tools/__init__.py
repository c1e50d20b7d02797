"""The tools that the models were trained with, and functions of the user's own.

Importing this package lets openai-harmony find the vocabulary that we ship, so that `load_harmony_encoding` works
offline; a TIKTOKEN_ENCODINGS_BASE that is set already stays as it is.
"""

import os
from pathlib import Path

os.environ.setdefault("TIKTOKEN_ENCODINGS_BASE", str(Path(__file__).parent.parent / "harmony" / "data"))
