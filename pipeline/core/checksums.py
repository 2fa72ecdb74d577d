"""SHA256SUMS: checksums of what a stage wrote, so that a later stage notices a flipped bit. `sha256sum -c` reads it.

It may list files of other folders, too: `../../closest/dcgan-0.png`.
"""

import os
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.core.files import damaged, sha256, write_bytes

SUMS = "SHA256SUMS"
OUTSIDE = "../"


def write_sums(folder: Path, *names: str) -> None:
    """Write SHA256SUMS into `folder` for the files and folders named, by default for everything in it."""
    files = [path for name in names or ["."] for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    found = sorted(Path(os.path.relpath(path, folder)).as_posix() for path in files)
    write_bytes(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in found).encode())


def verify_checksums(folder: Path, *names: str, partial: bool = False) -> None:
    """Verify files in `folder` against SHA256SUMS.

    Args:
        names: files or folders in it; by default everything that SHA256SUMS lists.
        partial: whether files of other folders may be missing, as they are in a clone that has not fetched them.

    Raises:
        PipelineError: a file is missing or damaged, or SHA256SUMS is.
    """
    known = _read(folder / SUMS)
    if not known:
        raise damaged(folder / SUMS, "it is empty")
    chosen = [] if names else list(known)
    for name in names:
        listed = [one for one in known if one == name or one.startswith(f"{name}/")]
        if not listed:
            raise damaged(folder / SUMS, f"it does not list {name}")
        chosen += listed
    for name in chosen:
        path = Path(os.path.normpath(folder / name))
        try:
            found = sha256(path)
        except FileNotFoundError:
            if partial and name.startswith(OUTSIDE):
                continue
            raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from None
        if found != known[name]:
            raise damaged(path, f"its sha256 is not the one in {folder / SUMS if name.startswith(OUTSIDE) else SUMS}")


def _read(path: Path) -> dict[str, str]:
    """The sha256 of each listed file, by name."""
    try:
        lines = path.read_text().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from None
