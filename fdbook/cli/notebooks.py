"""`fdbook notebooks`: the book's chapters, solutions and records as files of the reader's own."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from fdbook.cli.common import Commands, add


__all__ = ["add_notebooks", "copy"]

NOTE = ".fdbook-copy.json"
"""The file in a copy that says what was put there: it tells a file that the reader has changed from an older one of ours."""
SHOWN = 5


def add_notebooks(commands: Commands) -> None:
    """`fdbook notebooks copy DIR`: the chapters with all that they read, to work in."""
    parser = commands.add_parser(
        "notebooks", help="copy the chapters, to work in", description="The book's notebooks, as files of your own."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    action = add(
        actions,
        "copy",
        _copy,
        summary="copy the chapters, their solutions and the records that they read into a folder",
        examples=(
            "fdbook notebooks copy my-book             then: jupyter lab my-book/notebooks",
            "fdbook notebooks copy my-book             again, with a newer fdbook: what you have not changed is renewed",
            "fdbook notebooks copy my-book --force     and what you have changed as well",
        ),
    )
    action.add_argument("folder", metavar="DIR", type=Path, help="the folder, made if it is not there")
    action.add_argument("--force", action="store_true", help="overwrite files that you have changed")


def _copy(arguments):
    from fdbook import book

    changed = copy(book.files(), arguments.folder, force=arguments.force)
    if changed:
        print(f"Overwritten, though you had changed them: {_some(changed)}.")
    print(
        f"The chapters are in {arguments.folder / 'notebooks'}: open them with jupyter lab {arguments.folder / 'notebooks'}"
    )


def copy(files: Mapping[str, Path], folder: Path, *, force: bool = False) -> list[str]:
    """Copies files to their places below a folder, all of them or none, and returns which of the reader's were overwritten.

    A file that is there is the reader's, unless it is as a copy before this one left it. Raises ValueError, with their names,
    when the reader's files would be overwritten without `force`; OSError when something cannot be read or written.
    """
    from fdbook.disk import write_whole

    contents = {place: path.read_bytes() for place, path in files.items()}
    left = _left_by_us(folder)
    changed = [place for place, content in contents.items() if _is_readers(folder / place, content, left.get(place))]
    if changed and not force:
        raise ValueError(
            f"Nothing was copied: in {folder} you have changed {_some(changed)}; copy to another folder, or overwrite with "
            "--force."
        )
    digests = {place: hashlib.sha256(content).hexdigest() for place, content in contents.items()}
    whole = {folder / place: content for place, content in contents.items()}
    note = (json.dumps(digests, indent=1) + "\n").encode()
    with _new_folders({path.parent for path in whole}):
        write_whole(whole | {folder / NOTE: note})
    return changed


def _some(places: list[str]) -> str:
    """The first of several places, and how many more there are."""
    return ", ".join(places[:SHOWN]) + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")


def _left_by_us(folder: Path) -> dict[str, str]:
    """The digests of the files that an earlier copy put into a folder; none where its note is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return note if isinstance(note, dict) else {}
    return {}


def _is_readers(path: Path, ours: bytes, left: str | None) -> bool:
    """Whether a file is there that is neither what we copy now nor what we left there before."""
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        return path.is_symlink()  # one that leads nowhere is not ours either
    except (IsADirectoryError, PermissionError) as error:
        raise type(error)(f"{path} is in the way: it is no file that can be read.") from error
    return there != ours and hashlib.sha256(there).hexdigest() != left


@contextlib.contextmanager
def _new_folders(folders):
    """Makes folders; where what follows fails, those that were made are removed again."""
    from fdbook.disk import check_writable

    made: list[Path] = []
    try:
        for folder in sorted(folders):
            made += [each for each in (folder, *folder.parents) if not each.exists()]
            check_writable(folder)
        yield
    except BaseException:
        for each in sorted(set(made), key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # one with something in it stays
                each.rmdir()
        raise
