"""`python -m selfe.cli`: selfe-bench where it is not on the path."""

from selfe.cli import main

if __name__ == "__main__":
    main()
