"""A folder of images, or a zip of one: which files it holds, which classes they have, and which split they belong to.

    root/a.png ..                          unlabelled
    root/CLASS/a.png ..                    labelled by the first subfolder
    root/train/.. and root/test/..         one of these two, with given splits; `val` or `valid` can replace `test`
    root/dataset.json and any subfolders   labelled by that file, as StyleGAN's dataset_tool.py writes it

Hidden files and folders are skipped, such as ._a.png in the __MACOSX folder of an unpacked zip. A folder without images
is no class. Linked folders are not followed, since they may form loops or lead anywhere; linked files are.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError, printable, visible, warn
from pipeline.data.zips import ZipFolder, is_zip

Parts = tuple[str, ...]  # of a path below the root

SPLIT_NAMES = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
    "validation": "val",
}  # fmt: skip
LABEL_FILE = "dataset.json"
CHUNK = re.compile(r"0[0-9]{3,}")  # 00000: dataset_tool.py writes a thousand images into each such folder


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with their labels.

    classes: names in Unicode form NFC, hidden letters escaped, in natural order (2 before 10); () = unlabelled, and
        every label is 0.
    splits: "train", "val" or "test" for each file; None if the folder has no such subfolders.
    """

    files: list[Parts]
    labels: list[int]
    classes: tuple[str, ...]
    splits: list[str] | None


def list_images(root: Path, extensions: tuple[str, ...]) -> tuple[list[Parts], dict[str, int]]:
    """The images below `root`, sorted by path, and the number of skipped files and folders by reason; warns of those.

    Raises:
        PipelineError: a folder cannot be read.
    """
    files: list[Parts] = []
    skipped: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    labelled = _read_label_file(root) is not None
    for parts in _zipped(root) if is_zip(root) else _in_folder(root, skipped):
        if parts[-1].startswith("."):
            skipped["hidden_files"] += 1
        elif parts[-1].lower().endswith(extensions):
            files.append(parts)
        elif not (labelled and parts == (LABEL_FILE,)):
            skipped["other_files"] += 1
            suffixes[Path(parts[-1]).suffix.lower() or "no extension"] += 1
    counts = {reason: count for reason, count in sorted(skipped.items()) if count}
    if counts:
        what = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items())
        kinds = f" ({', '.join(printable(suffix) for suffix, _ in suffixes.most_common(5))})" if suffixes else ""
        warn(f"{printable(str(root), 200)}: skipped {what}{kinds}")
    return sorted(files), counts


def _in_folder(root: Path, skipped: Counter[str]) -> Iterator[Parts]:
    """The files below a folder, hidden folders left out; linked ones are counted in `skipped`."""
    for folder, subfolders, names in _walk(root):
        skipped["linked_folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in subfolders)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        parts = Path(folder).relative_to(root).parts
        yield from ((*parts, name) for name in names)


def _zipped(root: Path) -> Iterator[Parts]:
    """The files in a zip, those in hidden folders left out."""
    for parts in ZipFolder(root).names():
        if not any(part.startswith(".") for part in parts[:-1]):
            yield parts


def label_files(root: Path, files: list[Parts], mixed: bool = False) -> LabelledFiles:
    """Labels and splits of the `files` of a folder, from its subfolders or its dataset.json.

    Args:
        mixed: images beside subfolders with images make the folder an unlabelled one, instead of an error.

    Raises:
        PipelineError: an image has no label, or the name of a class cannot be written.
    """
    known = _read_label_file(root)
    if known is not None:
        return _by_label_file(root, files, known)
    nested = all(len(file) > 1 for file in files)
    roles = _split_folders({file[0] for file in files}) if nested else {}
    splits = [roles[file[0]] for file in files] if roles else None
    inner = [file[1:] for file in files] if roles else files
    beside = next((file for file, rest in zip(files, inner, strict=True) if len(rest) == 1), None)
    below = next((file for file, rest in zip(files, inner, strict=True) if len(rest) > 1), None)
    if beside and below and not mixed:
        pair = f"{printable('/'.join(beside), 200)} beside {printable('/'.join(below), 200)}"
        remedy = "move each into a class subfolder, or all into one folder"
        raise PipelineError(f"{_place(root)} holds images beside class subfolders ({pair}): {remedy}")
    if beside or not below:
        return LabelledFiles(files, [0] * len(files), (), splits)
    classes = class_order(rest[0] for rest in inner)
    for name in classes:  # they go into JSON, MLflow and the report
        if os.fsencode(name).decode(errors="replace") != name:
            raise PipelineError(f"{_place(root)}: the name of the subfolder {printable(name)} is not UTF-8: rename it")
    numbers = {name: number for number, name in enumerate(classes)}
    _warn_of_unusual(root, files, inner, classes)
    return LabelledFiles(files, [numbers[_class_name(rest[0])] for rest in inner], classes, splits)


def name_classes(root: Path, extensions: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that `label_files` will find, without listing all files.

    Raises:
        PipelineError: the folder cannot be read, or its dataset.json is not a label file.
    """
    known = _read_label_file(root)
    if known is not None:
        return tuple(map(str, range(max(known.values(), default=-1) + 1)))
    if is_zip(root):
        files = [file for file in _zipped(root) if file[-1].lower().endswith(extensions) and file[-1][0] != "."]
        return label_files(root, sorted(files)).classes
    names = _folders_with_images(root, extensions)
    roles = _split_folders(names)
    inner = [name for role in roles for name in _folders_with_images(root / role, extensions)] if roles else names
    return class_order(inner)


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in Unicode form NFC and natural order, in which numbers count as numbers; hidden letters escaped.

    >>> class_order(["10", "2", "b", "a"]), class_order(["cafe\\u0301", "caf\\u00e9"])
    (('2', '10', 'a', 'b'), ('café',))
    """
    return tuple(sorted({_class_name(name) for name in names}, key=_natural_key))


def _class_name(folder: str) -> str:
    """A class by its folder's name, fit for a page, a log and MLflow."""
    return visible(_nfc(folder))


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces], name


def _split_folders(names: Iterable[str]) -> dict[str, str]:
    """The split of each folder, if all of them are named as splits are and one of them is `train`; else {}."""
    roles = {name: SPLIT_NAMES.get(name.lower(), "") for name in names}
    distinct = len(set(roles.values())) == len(roles)
    return roles if "train" in roles.values() and all(roles.values()) and distinct else {}


def _read_label_file(root: Path) -> dict[str, int] | None:
    """The labels in dataset.json by image path; {} if it says that there are none; None without such a file.

    Raises:
        PipelineError: it is damaged, or its labels are not one whole number for each image.
    """
    path = root / LABEL_FILE
    text = ZipFolder(root).text(LABEL_FILE) if is_zip(root) else path.read_bytes() if path.is_file() else None
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # else a file that was cut short would leave folders of chunks as classes
        raise PipelineError(f"{_place(path)} is not valid JSON: write it again, or remove it") from None
    if not isinstance(content, dict) or "labels" not in content:
        return None
    labels: Any = content["labels"]
    pairs = list(labels.items()) if isinstance(labels, dict) else labels if labels is not None else []
    if not isinstance(pairs, list) or not all(_is_label(pair) for pair in pairs):
        raise PipelineError(f"{_place(path)}: labels must be pairs of a file name and a class from 0: correct it")
    found = {_nfc(name): label for name, label in pairs}
    most = max(found.values(), default=-1)
    if most >= len(found) > 0:
        raise PipelineError(f"{_place(path)} has the class {most} for {len(found)} images: number classes from 0 on")
    return found


def _is_label(pair: Any) -> bool:
    return (
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        and isinstance(pair[1], int) and not isinstance(pair[1], bool) and pair[1] >= 0
    )  # fmt: skip


def _by_label_file(root: Path, files: list[Parts], known: dict[str, int]) -> LabelledFiles:
    if not known:
        return LabelledFiles(files, [0] * len(files), (), None)
    names = [_nfc("/".join(file)) for file in files]
    unknown = next((name for name in names if name not in known), None)
    if unknown:
        path = _place(root / LABEL_FILE)
        raise PipelineError(f"{path} has no label for {printable(unknown, 200)}: add it, or remove the image")
    classes = tuple(str(number) for number in range(max(known.values()) + 1))
    return LabelledFiles(files, [known[name] for name in names], classes, None)


def _warn_of_unusual(root: Path, files: list[Parts], inner: list[Parts], classes: tuple[str, ...]) -> None:
    """Say what may not have been meant: deeper folders, and folders that look like parts of one set."""
    deep = [file for file, rest in zip(files, inner, strict=True) if len(rest) > 2]
    if deep:
        example = printable("/".join(deep[0]), 200)
        warn(f"{_place(root)}: {len(deep)} images in deeper folders have the class of the upper one, such as {example}")
    if len(classes) > 1 and all(CHUNK.fullmatch(name) for name in classes):
        what = f"the subfolders {classes[0]} to {classes[-1]} are taken for {len(classes)} classes"
        warn(f"{_place(root)}: {what}: if they are not, put all images into one folder, or add a {LABEL_FILE}")


def _folders_with_images(root: Path, extensions: tuple[str, ...]) -> list[str]:
    """The subfolders with an image somewhere below them; [] if there are images in `root` itself."""
    with os.scandir(root) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    if any(entry.is_file() and entry.name.lower().endswith(extensions) for entry in found):
        return []
    folders = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    return [name for name in folders if _holds_image(root / name, extensions)]


def _holds_image(folder: Path, extensions: tuple[str, ...]) -> bool:
    for _, subfolders, names in _walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if any(name.lower().endswith(extensions) and not name.startswith(".") for name in names):
            return True
    return False


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    try:
        yield from os.walk(root, onerror=_refuse_folder)
    except RecursionError:
        raise PipelineError(f"{_place(root)} holds endlessly nested folders: move the images up") from None


def _refuse_folder(error: OSError) -> None:
    name = printable(str(error.filename), 1000)
    raise PipelineError(f"{name} cannot be read ({error.strerror}): check its permissions") from error


def _place(path: Path) -> str:
    return printable(str(path), 200)
