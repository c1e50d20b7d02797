"""What of a JSON schema a grammar can hold an answer to, and what it has to leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.guidance import fault_of
from gpt_oss.harmony.rewrite import Left, Rewriter
from gpt_oss.harmony.satisfy import Widener, bury_unmet, contradiction, depth, finish, unmet
from gpt_oss.harmony.schema import check_schema
from gpt_oss.harmony.trials import Kept, TooHardError, Trials, is_simple, key_of, trials

# Schemas inside schemas, through references as well. llguidance recurses: 8 MiB of stack end after about 1,300.
DEEPEST = 256


@dataclass(frozen=True)
class Enforced:
    """What a grammar holds an answer to.

    schema: the schema for it.
    left_out: places and keywords that are not enforced, such as "properties.when: format 'week'".
    """

    schema: Mapping[str, Any]
    left_out: tuple[str, ...]


_KEPT: Kept[Enforced | Left] = Kept(64 << 20)


def enforceable(schema: Mapping[str, Any], where: str, *, strict: bool = False) -> Enforced:
    """What of a schema answers can be held to. `where` is the client's place of it.

    strict: all that the schema asserts is promised. Raises HarmonyError for what strict promises and cannot keep,
    naming the place and keyword; in any case for what is no schema (`check_schema`), for one that nothing can meet, and
    for references nested too deep.
    """
    check_schema(schema, where)
    found = _of(schema, strict, where)
    if isinstance(found, Enforced):
        return found
    place = f"{where}.{found.place}" if found.place else where
    raise HarmonyError(f"{place} {found.what}", field=place)


def _of(schema: Mapping[str, Any], strict: bool, where: str) -> Enforced | Left:
    """See `enforced`. Kept, for an agent sends its tools again and again; and tried elsewhere first, see trials.py."""
    text = json.dumps(schema, default=dict)
    key = key_of(text, str(strict))
    found = _KEPT.get(key)
    if found is None:
        elsewhere = trials()
        if elsewhere is None or is_simple(schema, text):
            found = enforced(text, strict)
        else:
            found = _told(elsewhere, text, strict, where)
        _KEPT.put(key, found, 1_000 + 12 * len(text))
    return found


def _told(elsewhere: Trials, text: str, strict: bool, where: str) -> Enforced | Left:
    try:
        told = elsewhere.found("enforce", text, "strict" if strict else "")
    except TooHardError as error:
        raise HarmonyError(f"{where} {error}", field=where) from None
    return Enforced(told["schema"], tuple(told["left_out"])) if "schema" in told else Left(**told)


def enforced(text: str, strict: bool) -> Enforced | Left:
    """What can be enforced of a schema, or what is wrong with it."""
    schema = json.loads(text)
    rewriter = Rewriter(schema)
    rewritten = rewriter.document()
    broken = next((left for left in rewriter.left if left.promised), None)
    if strict and broken is not None:
        sentence = f"has {broken.what}, and no grammar can hold an answer to that: leave it out, or do without strict"
        return Left(broken.place, sentence)
    if depth(rewritten) > DEEPEST:
        return Left("", f"leads through references more than {DEEPEST} schemas deep")
    ends = finish(rewritten)
    fault = fault_of(rewritten)
    if not ends and (fault is None or not unmet(fault)):
        return Left("", "can be met by no JSON that ends: it needs itself within itself")
    if ends and fault is not None and unmet(fault):
        bury_unmet(rewritten)
        fault = fault_of(rewritten)
    if fault is not None and not unmet(fault) and not strict:
        rewritten = Widener(rewritten, rewriter).widened()
        fault = fault_of(rewritten)
    if fault is None:
        return Enforced(rewritten, tuple(dict.fromkeys(map(str, rewriter.left))))
    if unmet(fault):
        return Left(contradiction(rewritten, rewriter.places), f"can be met by no JSON: {fault}")
    return Left("", f"cannot be made a grammar: {fault}")
