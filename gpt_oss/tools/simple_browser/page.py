"""From HTML to the text that the models were trained to read: links as `【id†text】`, images by their alternative text.

Reads a parsed tree from top to bottom, without recursion: a page that is broken, huge or deeply nested gives some text
and never an error. Runs nothing that a page holds.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import unescape
from urllib.parse import urljoin, urlsplit

import lxml.html
from lxml import etree

COLUMNS = 80
LOCAL = "local"  # the scheme of pages of a folder, local:///path
LONGEST_TITLE = 300  # characters
LONGEST_HTML = 8 << 20  # characters that are parsed of a page
_DROPPED = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "canvas", "select"})
_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "blockquote", "figure"}
)
_LINES = frozenset(
    "address article aside caption center dd details div dt fieldset figcaption footer form header legend li main nav "  # noqa: SIM905
    "option section summary tbody tfoot thead tr".split()
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00ad\U000e0000-\U000e007f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPACES = re.compile(r"[ \t\n\r\f\v\u00a0]+")
_LINK = re.compile(r"【\d+†([^†】]*)(?:†[^†】]*)?】")
_TAG = re.compile(r"<[^<>]*>")
_CODE = re.compile(r"<(/?)(?:script|style)\b", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MONSTER = re.compile(r"(\S{4000})(?=\S)")


@dataclass(frozen=True)
class Snippet:
    """What was shown of a linked page: where it stands there (a line, or words to look for)."""

    text: str = ""
    line: int | None = None


@dataclass(frozen=True)
class PageContents:
    """text: with link marks. urls: of each link, by its id. snippets: of links that stand for a place in their page.

    url: "" for a page that has no address, such as a search.
    """

    url: str
    title: str
    text: str
    urls: Mapping[str, str] = field(default_factory=dict)
    snippets: Mapping[str, Snippet] = field(default_factory=dict)

    @cached_property
    def lines(self) -> list[str]:
        """The page as it is numbered and shown."""
        return wrap(self.text)

    @cached_property
    def plain_lines(self) -> list[str]:
        """`lines` without the link marks, numbered the same: a mark may reach over a line's end."""
        return _LINK.sub(_words_on_their_lines, "\n".join(self.lines)).split("\n")


def clean(text: str) -> str:
    """Text without what could be taken for our marks, cannot be seen or encoded, or drives a terminal."""
    text = _CONTROL.sub("", _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return _SURROGATE.sub("\ufffd", text).replace("【", "〖").replace("】", "〗")


def wrap(text: str) -> list[str]:
    """The numbered lines of a page: at most COLUMNS characters each."""
    lines: list[str] = []
    # textwrap takes quadratic time over one word: a monster is cut before.
    for line in _MONSTER.sub(r"\1\n", text).split("\n"):
        lines += textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]
    return lines


def without_links(text: str) -> str:
    """Text with every link mark replaced by what it says."""
    return _LINK.sub(r"\1", text)


def page_of_source(text: str, url: str, title: str | None = None) -> PageContents:
    """The source of a page."""
    return PageContents(url, _title(title, url), clean(text).strip("\n"))


def page_of_text(text: str, url: str, title: str | None = None) -> PageContents:
    """A plain text as a page."""
    return PageContents(url, _title(title, url), top_lines(url) + clean(text).strip("\n"))


def page_of_html(html: str, url: str, title: str | None = None) -> PageContents:
    """title: given by whoever fetched the page; else its own, else its host."""
    # huge_tree: libxml2 then gives up at 2048 elements deep instead of 256. The tree is read without recursion.
    parser = lxml.html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True
    )
    html = html[:LONGEST_HTML].replace("\0", "")
    top = top_lines(url)
    try:
        root = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):
        return PageContents(url, _title(title, url), top)
    if any("Excessive depth" in error.message for error in parser.error_log):
        return PageContents(url, _title(title, url), top + _without_tags(html))
    writer = _Writer(_base(root, url))
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if isinstance(element.tag, str):
            writer.start(element) if event == "start" else writer.end(element)
    own = root.findtext(".//title") or root.findtext(".//h1")
    return PageContents(url, _title(title or own, url), top + writer.text(), writer.urls)


def top_lines(url: str) -> str:
    """What the models saw every page begin with; a search has no address, and says so."""
    return f"\nURL: {one_line(clean(url))}\n"


def host_of(url: str) -> str:
    """`host` or `host:port`; "" where there is none. Raises ValueError for what is no address."""
    return urlsplit(url).netloc.rpartition("@")[2]


def link_mark(number: int, words: str, target: str, url: str) -> str:
    """`【id†words】` for a link from the page at `url`, with the domain where that is another one."""
    host = host_of(target)
    elsewhere = f"†{clean(host).replace('†', '‡')}" if host != host_of(url) else ""
    return f"【{number}†{words.replace('†', '‡')}{elsewhere}】"


def one_line(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def join(base: str, href: str) -> str:
    """urljoin, which knows nothing of our own scheme. Raises ValueError for what is no address."""
    if not base.startswith(f"{LOCAL}:///"):
        return urljoin(base, href)
    joined = urljoin(f"http{base.removeprefix(LOCAL)}", href)
    return LOCAL + joined.removeprefix("http") if joined.startswith("http:///") else joined


def _title(title: str | None, url: str) -> str:
    """In one line; the page's host where it has none."""
    try:
        host = host_of(url)
    except ValueError:
        host = ""
    found = one_line(clean(title or "")) or one_line(clean(host or url))
    return found if len(found) <= LONGEST_TITLE else f"{found[: LONGEST_TITLE - 3]}..."


def _without_tags(html: str) -> str:
    """The text of a page that is too deep to be parsed; its links are lost."""
    first, *others = _CODE.split(html)  # then in turns: "/" where a script ends or "" where one begins, what follows
    pairs = zip(others[::2], others[1::2], strict=True)
    shown = first + "".join(text.partition(">")[2] for slash, text in pairs if slash)
    text = clean(unescape(_TAG.sub(" ", shown)))
    return _paragraphs("\n".join(one_line(line) for line in text.split("\n")))


def _paragraphs(text: str) -> str:
    """Without space at the ends of lines, and at most one empty line between others.

    Line by line: a pattern that looks for spaces before a line's end takes quadratic time where there are many.
    """
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _words_on_their_lines(mark: re.Match[str]) -> str:
    """What a link mark says, with as many line ends as the whole mark has, so that the lines keep their numbers."""
    words: str = mark[1]
    return words + "\n" * (mark[0].count("\n") - words.count("\n"))


def _is_hidden(element: lxml.html.HtmlElement) -> bool:
    return "hidden" in element.attrib or "display:none" in element.get("style", "").replace(" ", "").lower()


def _base(root: lxml.html.HtmlElement, url: str) -> str:
    base = root.find(".//base[@href]")
    try:
        return url if base is None else join(url, base.get("href", ""))
    except ValueError:
        return url


class _Writer:
    """Takes the elements in order and keeps the text; a run of `\\n` in it is a wish for that many line breaks."""

    def __init__(self, url: str) -> None:
        self.urls: dict[str, str] = {}
        self._ids: dict[str, int] = {}
        self._url = url
        self._out: list[str] = []
        self._dropping = 0
        self._keeping_spaces = 0
        self._lists: list[int | None] = []  # of each open list: the next number, or None for bullets
        self._links: list[int] = []  # where the text of each open link begins
        self._images = 0

    def start(self, element: lxml.html.HtmlElement) -> None:
        tag = element.tag
        if self._dropping or tag in _DROPPED or _is_hidden(element):
            self._dropping += 1
            return
        self._break(tag)
        match tag:
            case "br":
                self._out.append("\n")
            case "hr":
                self._out.append("\n\n---\n\n")
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                self._out.append("#" * int(tag[1]) + " ")
            case "ul" | "ol":
                self._lists.append(1 if tag == "ol" else None)
            case "li":
                self._item()
            case "blockquote":
                self._out.append("> ")
            case "td" | "th":
                self._out.append(" | " if self._has_line() else "")
            case "sub":
                self._out.append("_{")
            case "sup":
                self._out.append("^{")
            case "pre" | "textarea":
                self._keeping_spaces += 1
            case "math":  # its markup does not read as text; what it was written as does
                self._write(element.get("alttext"))
                self._dropping += 1
                return
            case "img":
                self._image(element)
            case "a":
                self._links.append(len(self._out))
        self._write(element.text)

    def end(self, element: lxml.html.HtmlElement) -> None:
        tag = element.tag
        if self._dropping:
            self._dropping -= 1
            if not self._dropping:
                self._write(element.tail)
            return
        match tag:
            case "ul" | "ol":
                self._lists.pop()
            case "sub" | "sup":
                self._out.append("}")
            case "pre" | "textarea":
                self._keeping_spaces -= 1
            case "a":
                self._link(element)
        self._break(tag)
        self._write(element.tail)

    def text(self) -> str:
        return _paragraphs("".join(self._out))

    def _write(self, text: str | None) -> None:
        if not text or self._dropping:
            return
        text = clean(text)
        if not self._keeping_spaces:
            text = _SPACES.sub(" ", text)
            if text.startswith(" ") and not self._has_line():
                text = text[1:]
            if text.startswith(" ") and self._out and self._out[-1].endswith(" "):
                text = text[1:]
        if text:
            self._out.append(text)

    def _has_line(self) -> bool:
        """Whether something stands on the current line."""
        last = next((piece for piece in reversed(self._out) if piece), "\n")
        return not last.endswith("\n")

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPHS and not (tag in ("ul", "ol") and self._lists):
            self._out.append("\n\n")
        elif (tag in _LINES or tag in ("ul", "ol")) and self._has_line():
            self._out.append("\n")

    def _item(self) -> None:
        indent = "  " * len(self._lists)
        number = self._lists[-1] if self._lists else None
        if number is None:
            self._out.append(f"{indent}* ")
        else:
            self._out.append(f"{indent}{number}. ")
            self._lists[-1] = number + 1

    def _image(self, element: lxml.html.HtmlElement) -> None:
        alt = one_line(clean(element.get("alt") or element.get("title") or ""))
        self._out.append(f"[Image {self._images}: {alt}]" if alt else f"[Image {self._images}]")
        self._images += 1

    def _link(self, element: lxml.html.HtmlElement) -> None:
        start = self._links.pop()
        inside = "".join(self._out[start:])
        words = one_line(without_links(inside))
        target = self._target(element.get("href"))
        if target is None or not words:
            return
        lead = inside[: len(inside) - len(inside.lstrip())]
        trail = inside[len(inside.rstrip()) :]
        number = self._ids.setdefault(target, len(self._ids))
        self.urls[str(number)] = target
        self._out[start:] = [f"{lead}{link_mark(number, words, target, self._url)}{trail}"]

    def _target(self, href: str | None) -> str | None:
        """The address that a link leads to; None for one within the page and for what is no page."""
        if not href or href.strip().startswith("#"):
            return None
        try:
            target = join(self._url, href.strip())
            scheme, host = urlsplit(target).scheme, host_of(target)
        except ValueError:
            return None
        return target if scheme == LOCAL or (scheme in ("http", "https") and host) else None
