"""Where a run lies: a folder, weights that come with the package, or a repository of the Hugging Face hub, by name.

HF_HOME/monopose/ORG/NAME/COMMIT/       the files of one state of a run
HF_HOME/monopose/ORG/NAME/main.json     which commit a branch, tag or commit is; written when all files are here and whole
"""

from __future__ import annotations

import re
import urllib.parse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from . import limits
from .files import ASSETS, digest_of, sole_writer, write_json

ENDPOINT: str | None = None  # of the hub; None: HF_ENDPOINT, or https://huggingface.co
TIMEOUT = 10.0  # seconds until the hub has to answer
FOLDERS = ("runs", "weights", "out", "data")  # what stands before a / that is meant as a folder, wherever one is
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
FILES = re.compile(r"\w[\w.-]*\.(safetensors|json)|objects/(\w[\w.-]*/)?\w[\w.-]*\.(ply|png|jpe?g|json)")  # all a run needs


class Name(NamedTuple):
    """Of a run on the hub: "org/name" and a branch, tag or commit."""

    repo: str
    revision: str


def located_run(name: str | Path, revision: str | None = None) -> Path:
    """Where a run lies: as named, or where bundled weights of that name are, or fetched from the hub.

    A folder that happens to have the name of bundled weights, and holds no weights itself, does not hide them; one that does
    goes before them, with a warning. What is no folder here but reads "org/name" or "org/name@revision" is a run of the hub,
    unless a folder "org" is here, or "org" is one of `FOLDERS`: then a folder was meant.

    Raises:
        FileNotFoundError, ValueError, ConnectionError, PermissionError: see `fetch`; only of names of the hub.
    """
    path, own = Path(name), ASSETS / str(name)
    if (known := hub_name(name, revision)) is not None:
        return fetch(known)
    if revision is not None:
        raise ValueError(f"a revision belongs to runs of the hub ('org/name'); {str(name)!r} is none")
    if str(name) != path.name or path.name == "base" or not any(own.glob("*.safetensors")):
        return path
    if not any(path.glob("*.safetensors")):
        return own
    warnings.warn(
        f"the folder {path} here is taken, not the bundled weights of that name; those are in {own}", UserWarning, stacklevel=3
    )
    return path


def hub_name(name: str | Path, revision: str | None = None) -> Name | None:
    """A run's name on the hub; None: it is a path here."""
    match = _NAME.fullmatch(str(name))
    if match is None or Path(name).exists() or Path(name).parent.is_dir() or match["repo"].endswith(".safetensors"):
        return None
    if Path(name).parts[0] in FOLDERS:
        return None
    if revision is not None and match["revision"] not in (None, revision):
        raise ValueError(f"two revisions: {name} and {revision!r}")
    return Name(match["repo"], revision or match["revision"] or "main")


def fetch(name: Name, renew: bool = False) -> Path:
    """The folder of a run of the hub. What is here is taken without asking; what was interrupted goes on.

    Args:
        name: which run.
        renew: ask the hub whether a branch has moved on.

    Returns:
        a folder with the weights, the CAD models and what JSON files say about them; nothing else is fetched.

    Raises:
        FileNotFoundError: no such repository or revision.
        PermissionError: it wants a login, or a licence to be accepted.
        ValueError: it holds no weights, more than the limit, or a file is not what the hub says.
        ConnectionError: no network.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    from . import records

    folder = Path(constants.HF_HOME) / "monopose" / name.repo
    note = folder / f"{urllib.parse.quote(name.revision, safe='')}.json"
    here = folder / str(records.mapping(records.read_json(note), str(note)).get("commit")) if note.is_file() else None
    if here is not None and here.is_dir() and not renew:
        return here
    known = asked(
        lambda: HfApi(endpoint=ENDPOINT).model_info(name.repo, revision=name.revision, files_metadata=True, timeout=TIMEOUT),
        name,
    )
    files = [file for file in known.siblings or [] if FILES.fullmatch(file.rfilename)]
    if not any(file.rfilename.endswith(".safetensors") and "/" not in file.rfilename for file in files):
        raise ValueError(f"{name.repo} on the hub holds no weights of monopose (*.safetensors); is it another program's?")
    if not re.fullmatch("[0-9a-f]{40}", known.sha or ""):
        raise ValueError(f"the hub names no commit of {name.repo}, got {known.sha!r:.60}")
    limits.check("MONOPOSE_MAX_DOWNLOAD_MB", sum(file.size or 0 for file in files) / 1e6, f"{name.repo} on the hub")
    with sole_writer(folder, "fetch"):
        for file in files:
            path = Path(
                asked(
                    lambda file=file: hf_hub_download(
                        name.repo, file.rfilename, revision=known.sha, local_dir=folder / known.sha, endpoint=ENDPOINT
                    ),
                    name,
                )
            )
            _check(path, file, name)
        write_json(note, {"commit": known.sha})
    return folder / known.sha


def _check(path: Path, file: Any, name: Name) -> None:
    """ValueError where a file is not the one that the hub announced; it is removed."""
    size = path.stat().st_size
    wrong = f"{size:,} bytes, expected {file.size:,}" if file.size not in (None, size) else ""
    if file.lfs is not None and not wrong:
        came = digest_of(path, 64)
        wrong = f"SHA-256 {came}, expected {file.lfs.sha256}" if came != file.lfs.sha256 else ""
    if wrong:
        path.unlink()
        raise ValueError(f"{file.rfilename} of {name.repo} has {wrong}; it was removed, try again")


def asked(call: Any, name: Name) -> Any:
    """What the hub answers; its errors as ours.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `fetch`.
    """
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError:
        raise PermissionError(
            f"{name.repo} on the hub wants its licence to be accepted: open it in a browser, then hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"no run {name.repo!r}: it is no folder here, and the hub has no such repository, or it is private (hf auth login)"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{name.repo} on the hub has no branch, tag or commit {name.revision!r}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise PermissionError(f"the hub does not let you use {name.repo} (HTTP {status}); log in: hf auth login") from None
        raise ConnectionError(f"the hub does not answer for {name.repo} ({_line(error)}); try again") from None
    except Exception as error:  # of the HTTP library that the hub's client uses, which is not always the same
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # of the disk
        raise ConnectionError(
            f"the hub does not answer for {name.repo!r}, which is no folder here ({_line(error)}). Is there a network?"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
