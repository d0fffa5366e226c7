"""`python -m fdbook` is the command `fdbook`."""

import sys

from fdbook.cli import main


if __name__ == "__main__":
    sys.exit(main())
