"""PASCAL VOC from its publisher: fetched, checked, and put in its place as a whole.

    ROOT/NAME.tar.part        what has come so far; the next call goes on behind it
    ROOT/NAME.tar.part.of     the length and version of the file that it is a part of
    ROOT/VOCdevkit/VOC2012    the result, there whole or not at all

Addresses and MD5 sums are torchvision's. An archive that lies at ROOT/NAME.tar is used and left as it is.
"""

from __future__ import annotations

import shutil
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from tunesearch.errors import DataError, InputError, Problem, nearest
from tunesearch.segmentation.data.download import Download, Log, Progress, size_text
from tunesearch.segmentation.data.layouts import VOC_LISTS

GROWTH = 1.1
"""What a tar takes on the disk when it is extracted, as a multiple of its length: files fill whole blocks there."""


@dataclass(frozen=True)
class DataSet:
    """What can be fetched.

    Attributes:
        folder: below ``VOCdevkit``.
        archives: keys of torchvision's table.
        lists: of ImageSets/Segmentation, whose images and masks must all be there in the end.
    """

    folder: str
    archives: tuple[str, ...]
    lists: tuple[str, ...]


DATASETS = {
    "voc2007": DataSet("VOC2007", ("2007", "2007-test"), ("train", "val", "test")),
    "voc2012": DataSet("VOC2012", ("2012",), ("train", "val")),
}


def fetch(
    name: str,
    root: str | Path,
    *,
    log: Log = lambda text: None,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Download a data set, check it and extract it; where it is already, nothing is done.

    Args:
        name: of DATASETS.
        root: folder that ``VOCdevkit`` comes into.
        log: called with what happens, line by line.
        progress: called with ``(what, done, total)`` in bytes; ``what`` changes from archive to archive and to
            extraction.

    Returns:
        The data set's folder, ``root/VOCdevkit/...``, absolute.

    Raises:
        InputError: an unknown name.
        DataError: no connection, a wrong checksum, an archive with members outside its folder, too little space, a
            folder that is there and not whole, another process at work. What has come of a download is kept.
    """
    if name not in DATASETS:
        rule, hint = "must be one of " + ", ".join(DATASETS), nearest(name, DATASETS, listed=False)
        raise InputError(Problem("data set", rule, value=repr(name), hint=hint))
    dataset = DATASETS[name]
    root = Path(root).expanduser().absolute()
    target = root / "VOCdevkit" / dataset.folder
    if target.exists():
        missing = _missing(target, dataset.lists)
        if missing:
            hint = "move it away, or give another --root"
            raise DataError(Problem(str(target), f"is there already, but not whole: it lacks {missing}", hint=hint))
        log(f"{target} is there already")
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock")
        with lock.acquire(timeout=0):
            try:
                _fetch(dataset, root, target, log, progress)
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise DataError(Problem(str(root), f"another process is fetching {name} into it")) from None
    except OSError as error:
        hint = "what has come is kept; the same command goes on"
        problem = Problem(error.filename or str(root), f"must be writable: {error.strerror or error}", hint=hint)
        raise DataError(problem) from error
    return target


def _fetch(dataset: DataSet, root: Path, target: Path, log: Log, progress: Progress) -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # type: ignore[import-untyped]

    sources: list[dict[str, str]] = [DATASET_YEAR_DICT[key] for key in dataset.archives]
    downloads = [Download(source["url"], source["md5"], root / source["filename"], log, progress) for source in sources]
    _require_space(root, downloads)
    for download in downloads:
        download.run()
    building = root / "VOCdevkit" / f".{dataset.folder}.new"
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    try:
        building.mkdir(parents=True)
        try:
            for download in downloads:
                log(f"{download.archive.name}: extracting")
                _extract(download, building)
            missing = _missing(building / "VOCdevkit" / dataset.folder, dataset.lists)
            if missing:
                raise DataError(Problem(", ".join(d.archive.name for d in downloads), f"lacks {missing}"))
        except DataError:
            for download in downloads:
                download.discard()
            raise
        (building / "VOCdevkit" / dataset.folder).rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with suppress(OSError):
            building.parent.rmdir()  # where nothing came into it
    for download in downloads:
        download.discard()


def _require_space(root: Path, downloads: list[Download]) -> None:
    lengths = [download.length() for download in downloads]
    here = sum(download.have for download in downloads)
    needed = max(sum(lengths) - here, 0) + GROWTH * sum(lengths)
    free = shutil.disk_usage(root).free
    if free < needed:
        rule = f"needs {size_text(needed)} of free space, for the archives and what is in them"
        raise DataError(Problem(str(root), rule, value=size_text(free), hint="--root names another folder"))


def _extract(download: Download, folder: Path) -> None:
    """Everything of an archive into ``folder``.

    Raises:
        DataError: a member that does not belong there, or no archive.
    """
    name, total = download.archive.name, download.have

    def safe(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        path = PurePosixPath(member.name)
        # The data filter would cut off the slash, and bear a detour that ends inside.
        if path.is_absolute() or ".." in path.parts:
            raise DataError(Problem(name, "its members must stay in their folder", value=repr(member.name)))
        download.progress(f"{name}: extracting", member.offset, total)
        return tarfile.data_filter(member, destination)

    try:
        with tarfile.open(download.path) as tar:
            tar.extractall(folder, filter=safe)
    except tarfile.TarError as error:
        raise DataError(Problem(name, f"must be a tar of files and folders: {error}")) from error
    download.progress(f"{name}: extracting", total, total)


def _missing(folder: Path, lists: tuple[str, ...]) -> str:
    """What a data set's folder lacks of what its lists name; empty where it is whole. No image is opened."""
    names: list[str] = []
    for name in lists:
        file = VOC_LISTS / f"{name}.txt"
        if not (folder / file).is_file():
            return str(file)
        names += (folder / file).read_text("utf-8").split()
    for part, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        there = {path.name for path in (folder / part).iterdir()} if (folder / part).is_dir() else set()
        gone = [name for name in names if name + suffix not in there]
        if gone:
            more = f" and {len(gone) - 1} more files" if len(gone) > 1 else ""
            return f"{part}/{gone[0]}{suffix}{more}"
    return ""
