"""`python -m selfe` is `selfe-bench`."""

from selfe.cli import main

main()
