"""Every exception that this package raises on purpose.

    GptOssError                 one sentence that a user can act on
    ├── CheckpointError         a file is truncated, mis-shaped, missing a tensor, of a foreign format
    ├── ConfigError             a config field is missing, contradicts another, or asks for what a backend cannot do
    ├── HarmonyError            a conversation cannot be rendered (never raised by the parser: it survives anything)
    ├── ParameterError          a sampling parameter or a flag is out of range
    ├── ContextOverflowError    prompt plus answer do not fit the model's context or the cache
    ├── CapacityError           too many requests wait already: try again later
    ├── BackendError            a backend cannot start or failed while computing
    │   └── MissingDependencyError   an optional package is needed; says which extra to install
    ├── DownloadError           a checkpoint could not be fetched
    └── PatchError              a patch does not parse or does not fit the files; written for the model to read

The message is the whole story: what went wrong, where (file, tensor, field), what to do. The command line
prints it after `gpt-oss: ` and exits with 2; a traceback appears only with `--debug`.
"""

from __future__ import annotations


class GptOssError(Exception):
    """Base of all errors raised on purpose.

    hint: a second sentence, where there is one: what to do next.
    field: the dotted place in what was given that is at fault, where there is one, such as `tools[0].function.name`.
    """

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.field = field


class CheckpointError(GptOssError):
    pass


class ConfigError(GptOssError):
    pass


class HarmonyError(GptOssError):
    pass


class ParameterError(GptOssError):
    pass


class ContextOverflowError(GptOssError):
    @classmethod
    def of(cls, tokens: int, most: int) -> ContextOverflowError:
        """The error in the words that agents look for before they compact a conversation.

        tokens: of the prompt. most: that the context holds, with the answer.
        """
        return cls(
            f"prompt is too long: {tokens} tokens > {most} maximum: this model's maximum context length is {most}"
            f" tokens, however your messages resulted in {tokens} tokens"
        )


class CapacityError(GptOssError):
    pass


class BackendError(GptOssError):
    pass


class MissingDependencyError(BackendError):
    pass


class DownloadError(GptOssError):
    pass


class PatchError(GptOssError):
    pass
