"""The python tool; its name is the source document's, and Docker is one of its sandboxes.

`SystemContent.with_python` is that document's name for openai-harmony's `with_python_tool`; it is added where it is
missing.
"""

from openai_harmony import SystemContent

if not hasattr(SystemContent, "with_python"):
    SystemContent.with_python = SystemContent.with_python_tool
