"""Files that are never half-written."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


__all__ = ["check_writable", "write_whole"]


def write_whole(files: Mapping[Path, bytes], without: Iterable[Path] = ()) -> None:
    """Writes each file under a temporary name in its own folder, and moves them to their places when all are on disk.

    A file that was there before stays whole until its successor is; those of `without` are removed at the end. Raises
    OSError, and leaves no temporary then.
    """
    temporaries = {path: path.with_name(f".{path.name}.tmp") for path in files}
    try:
        for path, content in files.items():
            with open(temporaries[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            os.replace(temporaries[path], path)
        for path in without:
            path.unlink(missing_ok=True)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Makes the folder if it is not there. Raises OSError, with a sentence, when nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"Nothing can be written to {folder}: {error.strerror}.") from error
