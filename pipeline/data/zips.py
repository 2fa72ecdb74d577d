"""A zip of images, read in place as a folder would be: data sets of StyleGAN and EDM, and any other."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pipeline.core.errors import PipelineError, printable
from pipeline.data.pictures import BadImage, decode_bytes, reason_of, size_fault

Parts = tuple[str, ...]  # of a name in the archive
SUFFIX = ".zip"
MOST_TEXT = 2**28  # bytes of a text file that is read whole


def is_zip(path: Path) -> bool:
    """Whether `path` is a file whose name ends in .zip."""
    return path.suffix.lower() == SUFFIX and path.is_file()


class ZipFolder:
    """The files in a zip, which stays open; several threads may read at once.

    Nothing is unpacked, so no name in it can lead anywhere, and of no file more is read than its kind may hold.

    Raises:
        PipelineError: it is damaged, or no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _named(path):
            self._archive = zipfile.ZipFile(path)
        self._members = {_parts(info.filename): info for info in self._archive.infolist() if not info.is_dir()}

    def names(self) -> list[Parts]:
        """The files in it, by the parts of their names, sorted."""
        return sorted(self._members)

    def text(self, name: str) -> bytes | None:
        """The content of a text file at the top, None without such a file.

        Raises:
            PipelineError: it is damaged or very large.
        """
        member = self._members.get((name,))
        if member is None:
            return None
        if member.file_size > MOST_TEXT:
            raise PipelineError(
                f"{printable(str(self.path), 200)} holds a {name} of {member.file_size:,} bytes: remove it"
            )
        with _named(self.path):
            return self._archive.read(member)

    def decode(self, parts: Parts, max_megapixels: float, formats: tuple[str, ...], limit: str) -> Image.Image:
        """`pipeline.data.pictures.decode` for a file in it.

        Raises:
            BadImage: it cannot be read, is no such image, or is larger than any image of so many megapixels.
        """
        member, path = self._members[parts], self.path.joinpath(*parts)
        if fault := size_fault(member.file_size, max_megapixels):
            raise BadImage("too_large", f"{path} holds {fault}")
        try:
            content = self._archive.read(member)
        except Exception as error:  # BadZipFile, zlib.error, RuntimeError (a password), NotImplementedError ...
            raise BadImage("broken", f"{path} cannot be read ({reason_of(error)})") from None
        return decode_bytes(content, path, max_megapixels, formats, limit)


def _parts(name: str) -> Parts:
    return tuple(part for part in name.replace("\\", "/").split("/") if part)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        place = printable(str(path), 200)
        raise PipelineError(f"{place} cannot be read ({printable(reason_of(error), 200)}): save it again") from None
