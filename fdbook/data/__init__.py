"""The data behind the book: which tasks there are (`tasks`), finding and loading their data (`load`), recording it (`record`).

`custom` makes tasks of one's own data. `ogbench` and `minari` read the two benchmarks, `files` knows where recordings live,
`summary` and `listing` tell what is in them.
Importing these modules is cheap: simulators are imported when an environment is built, not before.
"""

from fdbook.data import custom, files, listing, load, minari, ogbench, record, summary, tasks


__all__ = ["custom", "files", "listing", "load", "minari", "ogbench", "record", "summary", "tasks"]
