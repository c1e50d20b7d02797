"""With GPT_OSS_NATIVE_DIR set (csrc/sanitize.sh), these tests run against the extension in that folder."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

if folder := os.environ.get("GPT_OSS_NATIVE_DIR"):
    [path] = Path(folder).glob("_native*.so")
    spec = importlib.util.spec_from_file_location("gpt_oss.backends.cpu._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
