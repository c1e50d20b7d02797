"""Where the `$ref`s of a JSON schema lead in its own document: pointers, anchors and `$id`s. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from gpt_oss.harmony.json_types import LIST

Schema = Mapping[str, Any]

# What holds values rather than schemas: an "$id" in there names nothing.
_DATA = frozenset({"const", "enum", "default", "examples", "example"})


class References:
    """The schemas of a document by their names.

    A schema's home is the resource that its local pointers begin at: the nearest schema around it that has an `$id`, or
    the document.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._bases = {id(root): ""}
        self._resources: dict[str, Schema] = {"": root}
        self._anchors: dict[tuple[int, str], Schema] = {}
        self._index(root)

    def find(self, ref: str, home: Schema | None = None) -> tuple[Any, Schema]:
        """What `ref` in a schema of `home` refers to, and the home of that; (None, home) where there is nothing."""
        home = self._root if home is None else home
        start: Schema | None = home
        fragment = ref[1:]
        if not ref.startswith("#"):
            name, fragment = urldefrag(_joined(self._bases.get(id(home), ""), ref))
            start = self._resources.get(name)
        if start is None:
            return None, home
        found, its_home = self._in(start, unquote(fragment))
        if found is None and start is home is not self._root:  # an `$id` that was not meant to change the pointers
            found, its_home = self._in(self._root, unquote(fragment))
        return found, its_home

    def _in(self, resource: Schema, fragment: str) -> tuple[Any, Schema]:
        if not fragment.strip("/"):
            return resource, resource
        if fragment.startswith("/"):
            return _follow(resource, fragment, resource)
        return self._anchors.get((id(resource), fragment)), resource

    def _index(self, root: Schema) -> None:
        rest: list[tuple[Any, Schema]] = [(root, root)]
        while rest:
            part, home = rest.pop()
            if LIST.holds(part):
                rest += [(inner, home) for inner in part]
            if not isinstance(part, Mapping):
                continue
            home = self._named(part, home)
            rest += [(inner, home) for key, inner in part.items() if key not in _DATA]

    def _named(self, part: Schema, home: Schema) -> Schema:
        """Remembers a schema's names; its home."""
        own = part.get("$id")
        if isinstance(own, str) and own.startswith("#"):  # draft 7 writes anchors so
            self._anchors.setdefault((id(home), own[1:]), part)
        elif is_resource(part):
            base = urldefrag(_joined(self._bases[id(home)], str(own)))[0]
            home = part
            self._bases[id(part)] = base
            self._resources.setdefault(base, part)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(part.get(key), str):
                self._anchors.setdefault((id(home), part[key]), part)
        return home


def is_resource(schema: Schema) -> bool:
    """Whether local pointers inside a schema begin at it."""
    own = schema.get("$id")
    return isinstance(own, str) and not own.startswith("#")


def _follow(root: Any, pointer: str, home: Schema) -> tuple[Any, Schema]:
    found: Any = root
    for part in pointer.strip("/").split("/") if pointer.strip("/") else []:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif LIST.holds(found) and key.isascii() and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None, home
        if isinstance(found, Mapping) and is_resource(found):
            home = found
    return found, home


def _joined(base: str, ref: str) -> str:
    try:
        return urljoin(base, ref)
    except ValueError:  # not an address at all
        return ref
