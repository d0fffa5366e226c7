"""The data sets behind the book: which there are (`tasks`), recording them (`record`), reading them (`ogbench`, `minari`).

Importing these modules is cheap: simulators are imported when an environment is built, not before.
"""

from fdbook.data import files, ogbench, record, tasks


__all__ = ["files", "ogbench", "record", "tasks"]
