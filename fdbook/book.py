"""Where the book's own files are: its notebooks and the records that they read, in a clone or in an installed package.

An installed package carries them in a folder `_book`, laid out as a clone is: `notebooks`, `figures/data`, `constraints.txt`.
"""

from pathlib import Path


__all__ = ["CONSTRAINTS", "IN_CLONE", "NOTEBOOKS", "RECORDS", "ROOT", "chapters", "files"]

PACKAGE = Path(__file__).parent


def _is_clone(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir()


IN_CLONE = _is_clone(PACKAGE.parent)
"""Whether the package lies in a clone, and not where pip puts packages."""
ROOT = PACKAGE.parent if IN_CLONE else PACKAGE / "_book"
NOTEBOOKS, RECORDS, CONSTRAINTS = ROOT / "notebooks", ROOT / "figures" / "data", ROOT / "constraints.txt"

KINDS = {
    "notebooks": ("*.ipynb", "solutions/*.py", "animations/*.gif"),
    "figures/data": ("*.json", "*.npz", "*/*.json", "*/*.toml", "*/*/*.json"),
}
"""What of the book's folders a reader works with; a clone has more in them: caches, runs, checkpoints."""


def chapters(folder: str | Path = NOTEBOOKS) -> dict[str, Path]:
    """The notebooks of a folder that are chapters, by number, as in 00; in order."""
    return {path.name[:2]: path for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))}


def files(root: str | Path = ROOT) -> dict[str, Path]:
    """The files that a reader works with, notebooks, solutions, animations and records, by their place below `root`; in order.

    Raises FileNotFoundError when there is no chapter: an installation that lacks them.
    """
    root = Path(root)
    if not chapters(root / "notebooks"):
        raise FileNotFoundError(f"This installation of fdbook has no chapters: there are none in {root / 'notebooks'}.")
    found = [path for folder, kinds in KINDS.items() for kind in kinds for path in sorted((root / folder).glob(kind))]
    return {path.relative_to(root).as_posix(): path for path in found if not path.name.startswith(".")}
