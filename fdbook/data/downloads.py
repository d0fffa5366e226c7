"""Downloads that are there whole or not at all: fetched aside, checked, put in their place, and marked as downloads.

What a benchmark's own downloader brings lands in a hidden folder beside its place, where every byte is read once; only what is
whole is moved, under a lock that a second process waits for. Beside it stays a mark, the hidden file `.NAME.downloaded`, that
says what each file was. By it a damaged download, which may be replaced, is told from a file of the user's, which is never
touched. A file without a mark counts as the user's, also where another program or an older version downloaded it.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from fdbook.disk import write_whole


__all__ = ["CorruptFileError", "explain", "fetch", "is_download", "is_nonempty", "read_or_fetch_again", "reason"]

START = 512
"""Bytes from the beginning of a file that a mark keeps."""
T = TypeVar("T")


class CorruptFileError(ValueError):
    """What was to be read from `path`, a file or a folder, is damaged; the message is a sentence that names it."""

    def __init__(self, sentence: str, path: Path | None = None):
        super().__init__(sentence)
        self.path = path


def reason(error: BaseException) -> str:
    """Why something could not be downloaded, in a few words."""
    inner = getattr(error, "reason", None) or error
    return str(getattr(inner, "strerror", None) or inner).rstrip(".") or type(error).__name__


def _files(path: Path) -> list[Path]:
    """A file itself, or the files of a folder, hidden ones left out."""
    if path.is_dir():
        inside = (file for file in sorted(path.rglob("*")) if file.is_file())
        return [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return [path] if path.is_file() else []


def is_nonempty(path: Path) -> bool:
    """Whether a file or folder holds anything: an empty one is what a download leaves that brought nothing."""
    return any(file.stat().st_size for file in _files(path))


def _mark(path: Path) -> Path:
    return path.with_name(f".{path.name}.downloaded")


def _about(file: Path) -> dict:
    """What a mark keeps of a file."""
    state = file.stat()
    with open(file, "rb") as opened:
        return {"size": state.st_size, "time": state.st_mtime_ns, "start": opened.read(START).hex()}


def is_download(path: Path | None) -> bool:
    """Whether a file, or every file of a folder, is what `fetch` put there: unchanged, cut off, or changed past its beginning."""
    if path is None:
        return False
    try:
        known = json.loads(_mark(path).read_text(encoding="utf-8"))["files"]
        return all(_is_known(file, known[file.relative_to(path).as_posix()]) for file in _files(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_known(file, was):
    now = _about(file)
    unchanged = (now["size"], now["time"]) == (was["size"], was["time"])
    return unchanged or (now["size"] <= was["size"] and was["start"].startswith(now["start"]))


@contextlib.contextmanager
def _turn(folder: Path, what: str) -> Iterator[bool]:
    """Waits until no other process downloads the same, and holds a lock that ends with the process; gives whether it is held.

    Where the file system has no such locks, nobody waits: then both download, each into a folder of its own.
    """
    lock, alone = FileLock(folder / f".{what.replace('/', '-')}.lock"), True
    with contextlib.ExitStack() as held:
        try:
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                print(f"Another process downloads {what}; waiting until it is there.", file=sys.stderr, flush=True)
                held.enter_context(lock.acquire())
        except (NotImplementedError, OSError):  # what filelock raises where there are no such locks
            alone = False
        yield alone


def fetch(
    folder: Path,
    names: Sequence[str],
    get: Callable[[Path, Sequence[str]], Iterable[str]],
    check: Callable[[Path, str], None],
    *,
    what: str,
    again: bool = False,
) -> None:
    """Sees to it that the files or folders `names` are in `folder`: downloads what is missing, and, `again`, what is damaged.

    `get` downloads the named ones into a folder, where they have the same names, and returns the names of all that came;
    `check` takes a folder and a name, and raises ValueError for what is damaged. What came damaged is downloaded once more.
    `what` names the data set. A damaged download is kept beside its successor, and a warning says where. Raises OSError, and
    leaves everything as it was, when nothing whole can be had; `CorruptFileError` where what is damaged is no download.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _turn(folder, what) as alone:
        wanted = [
            name for name in names if not is_nonempty(folder / name) or (again and not _sound(check, folder, name))
        ]
        for name in wanted:
            if is_nonempty(folder / name) and not is_download(folder / name):
                raise explain(CorruptFileError(f"{folder / name} is damaged", folder / name))
        if not wanted:
            return
        prefix = f".{what.replace('/', '-')}.downloading-"
        for left in folder.glob(f"{prefix}*") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as aside:
            for name in _whole(Path(aside), wanted, get, check):
                _settle(Path(aside) / name, folder / name)


def _sound(check, folder, name):
    if not is_nonempty(folder / name):
        return False
    try:
        check(folder, name)
    except ValueError:
        return False
    return True


def _whole(aside: Path, wanted, get, check) -> list[str]:
    """Downloads once, and once more what came damaged; the names of all that came."""
    came: dict[str, None] = {}
    for _ in range(2):
        for path in (aside / name for name in wanted):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        came |= dict.fromkeys([*get(aside, wanted), *wanted])
        wanted = [name for name in came if not _sound(check, aside, name)]
        if not wanted:
            return list(came)
    raise OSError(f"{wanted[0]} came damaged, twice: {_said(aside / wanted[0])}")


def _said(path: Path) -> str:
    """What a damaged download looks like."""
    files = _files(path)
    size = sum(file.stat().st_size for file in files)
    if not size:
        return "it is empty"
    with open(files[0], "rb") as file:
        page = file.read(START).lstrip().startswith(b"<")
    return (
        f"a web page of {size:,} bytes came in its place" if page else f"it breaks off, or is broken, in {size:,} bytes"
    )


def _settle(source: Path, target: Path) -> None:
    """Marks what is whole as a download and moves it to its place; a damaged one that is there is kept under another name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    known = {}
    for file in _files(source):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
        known[file.relative_to(source).as_posix()] = _about(file)
    arriving = target.with_name(f".{target.name}.arriving")
    if arriving.is_dir():
        shutil.rmtree(arriving)
    shutil.move(source, arriving)  # a copy where a link leads to another disk
    write_whole({_mark(target): json.dumps({"files": known}).encode()})
    if target.is_dir() or is_nonempty(target):
        _set_aside(target)
    os.replace(arriving, target)


def _set_aside(target):
    """Takes a damaged download, or a folder with nothing in it, out of the way."""
    if target.is_dir() and not any(path.is_file() for path in target.rglob("*")):
        shutil.rmtree(target)
        return
    kept, number = target.with_name(f".{target.name}.damaged"), 1
    while kept.exists():
        number += 1
        kept = target.with_name(f".{target.name}.damaged-{number}")
    os.replace(target, kept)
    warnings.warn(
        f"{target} was damaged; it was a download, is set aside as {kept}, and was downloaded again.", stacklevel=2
    )


def explain(error: CorruptFileError) -> CorruptFileError:
    """The same error, about published data, with a word on whose the file is and what can be done."""
    if is_download(error.path):
        more = "it was downloaded: loading it sets it aside and downloads it again"
    else:
        more = (
            "no mark says that it was downloaded from here, so that it is left as it is: move it away, and the published data "
            "are downloaded in its place"
        )
    return CorruptFileError(f"{str(error).rstrip('.')}; {more}.", error.path)


def read_or_fetch_again(read: Callable[[], T], again: Callable[[], object]) -> T:
    """What `read` gives of published data, after `again` has fetched them once more where they are damaged and a download.

    Raises `CorruptFileError`, with a word on whose the file is and what can be done, where it is no download or cannot be had
    again; and what `read` raises.
    """
    try:
        return read()
    except CorruptFileError as error:
        if not is_download(error.path):
            raise explain(error) from error
        try:
            again()
        except OSError as failure:
            sentence = (
                f"{str(error).rstrip('.')}; it was downloaded, and cannot be downloaded again ({reason(failure)})."
            )
            raise CorruptFileError(sentence, error.path) from failure
    return read()
