"""Fetch a checkpoint from the Hugging Face hub: one layout's files, no more. huggingface_hub does the transfer.

Knows which files belong to a layout, whether they fit on the disk, and how to say what went wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from gpt_oss.errors import DownloadError
from gpt_oss.model.disk import require_space
from gpt_oss.model.layout import LayoutName

_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt")  # never a pickle
_AGAIN = "Run the same command again: it goes on where it stopped."


def belongs(file: str, layout: LayoutName) -> bool:
    """Whether a repository's file is part of a layout, as the released repositories have them."""
    match layout:
        case "metal":
            return file == "metal/model.bin"
        case "original":
            return file.startswith("original/") and file.endswith(_SUFFIXES)
        case "huggingface":
            return "/" not in file and file.endswith(_SUFFIXES)


def download(
    repo_id: str,
    layout: LayoutName = "original",
    dest: str | Path | None = None,
    *,
    revision: str = "main",
    endpoint: str | None = None,
) -> Path:
    """Fetch one layout of a repository and return what open_checkpoint takes: a folder, or metal's file.

    dest: the folder to put it in; None is the hub's cache, where open_checkpoint finds it by its name. Files that
    are there already are not fetched again, and a file that was cut goes on where it stopped. Shows progress.
    Raises DownloadError when the hub cannot be reached, does not give it, or when the disk is too small.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The hub's HTTP library changed more than once; its errors are always a base of HfHubHTTPError. hf_xet, the hub's
    # faster transfer, raises RuntimeError.
    failures = cast("tuple[type[Exception], ...]", (OSError, RuntimeError, *HfHubHTTPError.__bases__))
    dest = None if dest is None else Path(dest)
    try:
        info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = {name: size for name, size in sizes.items() if belongs(name, layout)}
        if not any(name.endswith((".safetensors", ".bin")) for name in wanted):
            raise DownloadError(f"{repo_id} has no weights in the {layout} layout", hint=_other_layouts(sizes))
        folder, missing_bytes = _missing(repo_id, info.sha or revision, wanted, dest)
        require_space(folder, missing_bytes, DownloadError)
        root = Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(wanted), local_dir=dest, endpoint=endpoint
            )
        )
    except GatedRepoError as error:
        raise DownloadError(
            f"{repo_id} is gated", hint="Accept its terms on its page at the hub, then run `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"{repo_id} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"the hub has no repository {repo_id}", hint="Check the name; if it is private, run `hf auth login`."
        ) from error
    except HFValidationError as error:
        raise DownloadError(
            f"{repo_id!r} is not a repository's name", hint="Write it as openai/gpt-oss-20b."
        ) from error
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{repo_id} cannot be fetched: HF_HUB_OFFLINE is set", hint="Unset it.") from error
    except failures as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DownloadError(f"{repo_id} could not be fetched: {reason}", hint=_AGAIN) from error

    match layout:
        case "metal":
            return root / "metal" / "model.bin"
        case "original":
            return root / "original"
        case "huggingface":
            return root


def _other_layouts(files: dict[str, int]) -> str:
    layouts: dict[str, LayoutName] = {"original": "original", "hf": "huggingface", "metal": "metal"}
    weights = [name for name in files if name.endswith((".safetensors", ".bin"))]
    found = [f"--layout {flag}" for flag, name in layouts.items() if any(belongs(file, name) for file in weights)]
    return f"It has {' and '.join(found)}." if found else "It holds no gpt-oss checkpoint."


def _missing(repo_id: str, revision: str, wanted: dict[str, int], dest: Path | None) -> tuple[Path, int]:
    """Where the files will go, and how many bytes are not there yet; partly fetched files count for what they lack."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    def is_here(name: str, size: int) -> bool:
        if dest is None:
            return isinstance(try_to_load_from_cache(repo_id, name, revision=revision), str)
        return (dest / name).is_file() and (dest / name).stat().st_size == size

    if dest is None:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    else:
        folder = dest
    begun_bytes = sum(path.stat().st_size for path in folder.rglob("*.incomplete"))
    missing_bytes = sum(size for name, size in wanted.items() if not is_here(name, size))
    return folder, max(0, missing_bytes - begun_bytes)
