"""The browser that the models were trained with: `browser.search`, `browser.open`, `browser.find`, and citations.

Covered: a direct fetch goes to public http(s) addresses only, checked after DNS and at every redirect, bounded in size,
time and kind; page text can neither form a link mark of ours nor drive a terminal.
Not covered: what a page says. It is untrusted text that the model reads, and may try to give the model orders.
"""

from gpt_oss.tools.simple_browser.backend import (
    Backend,
    BackendError,
    ExaBackend,
    SearxngBackend,
    YouComBackend,
    choose_backend,
)
from gpt_oss.tools.simple_browser.local import LocalBackend
from gpt_oss.tools.simple_browser.page import PageContents
from gpt_oss.tools.simple_browser.simple_browser_tool import SimpleBrowserTool

__all__ = [
    "Backend",
    "BackendError",
    "ExaBackend",
    "LocalBackend",
    "PageContents",
    "SearxngBackend",
    "SimpleBrowserTool",
    "YouComBackend",
    "choose_backend",
]
