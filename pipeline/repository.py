"""What DVC needs in a repository, reported if it is missing; and DVC's own files, repaired after a kill or a fault."""

import getpass
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.core import paths, sound
from pipeline.core.checksums import SUMS, verify_checksums
from pipeline.core.errors import PipelineError, warn
from pipeline.core.files import sha256

LOCK = Path("dvc.lock")
RUNNING = Path(".dvc/tmp/rwlock")  # DVC's list of the commands that it runs
WRITING = 0.5  # seconds after which a file that DVC may just be writing is looked at again


def require_dvc() -> None:
    """Check that DVC can start here. DVC itself reports what it lacks without a remedy, or by a traceback.

    Raises:
        PipelineError: this user has no home folder or no name, or this folder has lost its hidden files.
    """
    user = f"user {os.getuid()} is not in the system's list of users"
    if not os.path.isabs(os.path.expanduser("~")):
        raise PipelineError(f"{user}, and DVC needs a home folder: give it one, for example `export HOME=$PWD/.work`")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        raise PipelineError(f"{user}, and DVC needs a name: give it one, for example `export USER=me`") from None
    if not Path("dvc.yaml").exists():
        return
    if not Path(".dvc").is_dir():
        raise PipelineError("there is no .dvc here: copy the project with its hidden files, or clone it")
    if any(_is_git(folder / ".git") for folder in (Path.cwd(), *Path.cwd().parents)):
        return
    from dvc.repo import Repo  # imported here, because DVC is slow to import
    from dvc.scm import SCMError

    try:
        with Repo() as repo:
            _ = repo.scm
    except SCMError:
        remedy = "run `git init`, or, to work without git, `dvc config core.no_scm true`"
        raise PipelineError(f"{Path.cwd()} is not a git repository, which DVC expects: {remedy}") from None


def _is_git(folder: Path) -> bool:
    """Whether this is a git repository of the usual kind; of a work tree's or a submodule's file, DVC is asked."""
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def reproduce_reference() -> int:
    """Bring the prepared data and their reference up to date by DVC; returns its exit status.

    If it fails and one of DVC's own files is broken, that file is repaired, and DVC is tried once more.
    """
    code = _repro()
    if code and any([mend_lock(), mend_rwlock()]):
        code = _repro()
    return code


def _repro() -> int:
    """The exit status of `dvc repro reference`."""
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "reference"], stdout=subprocess.DEVNULL)
    try:
        return dvc.wait()
    except BaseException:  # a stop signal: DVC ends its stage and its locks
        dvc.terminate()
        dvc.wait()
        raise


def mend_lock() -> bool:
    """Move a dvc.lock away that was cut short, as DVC leaves it where it is killed while it writes.

    DVC then finds the results again in its cache, and trains nothing anew. Returns whether it was cut short.
    """
    if _is_whole_lock():
        return False
    time.sleep(WRITING)
    if _is_whole_lock():
        return False
    damaged = LOCK.with_suffix(".damaged")
    LOCK.rename(damaged)
    warn(f"{LOCK} was cut short and is now {damaged}; DVC finds its results again without it")
    return True


def _is_whole_lock() -> bool:
    """Whether DVC can read dvc.lock, or the file is not there; False for a folder of this name."""
    if not LOCK.exists():
        return True
    try:
        finding = sound.digest_of(str(LOCK), hashlib.sha256(LOCK.read_bytes()).hexdigest(), sound.installation())
    except OSError:  # a folder instead
        finding = ""
    if sound.is_known(finding):
        return True
    # Not public: DVC has no other way to ask whether a lock file is one. Imported here, because DVC is slow to import.
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(LOCK.read_bytes()))
    except Exception:  # of the parser, of the schema, or of a folder instead
        return False
    sound.remember(finding)
    return True


def mend_rwlock() -> bool:
    """Remove DVC's list of running commands if a kill cut it short: DVC would not start again.

    Returns whether it was.
    """
    for last in (False, True):
        try:
            json.loads(RUNNING.read_bytes())
        except FileNotFoundError:
            return False
        except ValueError:
            if last:
                RUNNING.unlink()
                warn(f"{RUNNING} was cut short and is removed; DVC writes it again")
                return True
            time.sleep(WRITING)
    return False


def mend_cache() -> None:
    """Remove damaged files from DVC's cache: DVC would hand them out, but it makes missing ones again.

    Damaged copies that DVC has handed out already are removed too, unless a SHA256SUMS lies beside them: then
    `require_outputs_whole` and the stages find the damage.

    Raises:
        PipelineError: there is no repository of DVC here.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        cache = Path(Repo().cache.local.path)
    except DvcException as error:
        raise PipelineError(f"DVC's cache cannot be read ({error}): run this in a clone of the repository") from None
    for path in sorted(cache.glob("??/*")):
        name = path.parent.name + path.name.removesuffix(".dir")
        if path.is_file() and _md5(path) == name:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        for copy in _handed_out(name):
            if copy.is_file() and _md5(copy) != name and not (copy.parent / SUMS).exists():
                copy.unlink()
                warn(f"{copy} was damaged, too, and is removed")
        warn(f"{path} was damaged and is removed; `dvc repro` makes again what is missing")


def _handed_out(md5: str) -> list[Path]:
    """The outputs of this md5, as dvc.lock has it."""
    stages = YAML(typ="safe", pure=True).load(LOCK.read_bytes())["stages"] if LOCK.is_file() else {}
    outs = [out for stage in stages.values() for out in stage.get("outs", ())]
    return [Path(out["path"]) for out in outs if out.get("md5") == md5]


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def require_outputs_whole() -> None:
    """Check that every output is as its stage wrote it, and every score of the run and the samples that are here.

    Raises:
        PipelineError: one is not.
    """
    for folder in [paths.PREPARED, paths.REFERENCE, *sorted([*paths.RUNS.glob("*"), *paths.SAMPLES.glob("*")])]:
        if (folder / SUMS).exists():
            verify_checksums(folder, partial=True)
    for folder in sorted(paths.SCORES.glob("*")):
        if (folder / SUMS).exists():
            _require_measured(folder)
            verify_checksums(folder, partial=True)


def _require_measured(scores: Path) -> None:
    """The run and the samples are whole: if they are not those of the scores, a kill came before the stage fid."""
    listed = (scores / SUMS).read_text(errors="replace")
    for folder in (paths.RUNS / scores.name, paths.SAMPLES / scores.name):
        if (folder / SUMS).exists() and sha256(folder / SUMS) not in listed:
            raise PipelineError(
                f"{scores} was measured from another {folder} than is here: delete {scores} and run `dvc repro`"
            )
