"""Names of a user's functions in the prompt: one that the models know as a tool of their own is renamed there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

# Names under which the models were trained on tools of their own: a function called so would be called as those are.
BUILT_IN_NAMES = frozenset({"python", "browser", "container", "bash", "shell", "functions"})


@dataclass(frozen=True)
class Aliases:
    """Names of functions in the prompt, and back.

    declared: the client's names.
    to_prompt: the name in the prompt of each that is renamed.
    """

    declared: tuple[str, ...] = ()
    to_prompt: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str]) -> Aliases:
        declared = tuple(dict.fromkeys(names))
        taken = set(declared)
        to_prompt = {}
        for name in declared:
            if name.split(".")[0] in BUILT_IN_NAMES:
                alias = f"user_{name}"
                while alias in taken:
                    alias += "_"
                taken.add(alias)
                to_prompt[name] = alias
        return cls(declared, to_prompt)

    @cached_property
    def _back(self) -> Mapping[str, str]:
        return {alias: name for name, alias in self.to_prompt.items()}

    def in_prompt(self, name: str) -> str:
        return self.to_prompt.get(name, name)

    def of_recipient(self, recipient: str) -> str:
        """The client's name of the function that a recipient means, with or without its namespace."""
        bare = recipient.removeprefix("functions.")
        if bare in self._back:
            return self._back[bare]
        return recipient if recipient in self.declared and bare not in self.declared else bare


NO_ALIASES = Aliases()


def prompt_names(names: Iterable[str]) -> Mapping[str, str]:
    """The names in the prompt of those functions that need another one than their own; for `Toolbox.of`."""
    return Aliases.of(names).to_prompt
