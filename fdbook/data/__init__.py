"""The data sets behind the book: which there are (`tasks`), recording them (`record`), reading them back (`ogbench`).

Importing these modules is cheap: simulators are imported when an environment is built, not before.
"""

from fdbook.data import ogbench, record, tasks


__all__ = ["ogbench", "record", "tasks"]
