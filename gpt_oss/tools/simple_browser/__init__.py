"""The browser that the models were trained with: `browser.search`, `browser.open`, `browser.find`, and citations.

Covered: a direct fetch goes to public http(s) addresses only, checked after DNS and at every redirect, bounded in size,
time and kind; page text can neither form a link mark of ours nor drive a terminal.
Not covered: what a page says. It is untrusted text that the model reads, and may try to give the model orders.
"""

from gpt_oss.tools.simple_browser.simple_browser_tool import SimpleBrowserTool

__all__ = ["SimpleBrowserTool"]
