"""Builds the site of the book from the committed, executed notebooks: nothing is run again, and nothing comes from a network.

    python notebooks/site/build.py --out book

The site is built beside its place and moved there when it is complete. Warnings are errors.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path


SITE = Path(__file__).resolve().parent
ROOT = SITE.parent.parent
MARK = ".fdbook-site"
"""The file by which a folder is known to be a site that this script made, and may replace."""


class Trouble(Exception):
    """What stands in the way of a build, in one sentence."""


def build(out, jobs=2):
    """Builds the site and puts it in place of `out`. Raises Trouble, and leaves `out` as it was."""
    try:
        from sphinx.cmd.build import main as sphinx
    except ImportError:
        raise Trouble("the site needs what fdbook's extra 'book' names: run 'make book', which installs it.") from None
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise Trouble(f"'{out}' holds something that is not a site of this book: name an empty or a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as scratch:
        source, html = Path(scratch, "source"), Path(scratch, "html")
        write(source)
        arguments = [
            "-b",
            "html",
            "-q",
            "-W",
            "--keep-going",
            "-j",
            str(jobs),
            "-c",
            SITE,
            "-d",
            Path(scratch, "doctrees"),
        ]
        if sphinx([str(each) for each in (*arguments, source, html)]):
            raise Trouble("the site was not built: Sphinx says why in the lines above.")
        (html / MARK).touch()
        if out.exists():
            out.rename(Path(scratch, "before"))
        html.rename(out)


def write(source):
    """Writes all that Sphinx reads."""
    import documents

    for path, content in documents.written(ROOT).items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content, encoding="utf-8")
    shutil.copytree(ROOT / "figures", source / "figures", ignore=shutil.ignore_patterns("data"))
    shutil.copytree(ROOT / "notebooks" / "animations", source / "chapters" / "animations")


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("book"), help="the folder of the site (default: book)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that read and write pages (default: 2)")
    options = parser.parse_args()
    began = time.perf_counter()
    try:
        build(options.out.absolute(), options.jobs)
    except (Trouble, OSError) as error:
        sys.exit(f"{error}")
    print(f"The site is built, in {time.perf_counter() - began:.0f} s: open {options.out / 'index.html'}")


if __name__ == "__main__":
    main()
