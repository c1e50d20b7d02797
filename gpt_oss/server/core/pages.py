"""Lists, a page at a time, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_oss.server.core.body import Json
from gpt_oss.server.core.errors import RequestError


def page_of(items: Sequence[Json], *, after: str | None, limit: int, order: str) -> Json:
    """A page of a list whose items have ids and stand oldest first. Raises RequestError for an item not in it."""
    if order not in ("asc", "desc"):
        raise RequestError("order is asc or desc", param="order")
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise RequestError(f"there is no item {after!r} here", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    page = ordered[:limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": len(ordered) > limit}
