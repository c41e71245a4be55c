"""``python -m jobs`` is ``clipmill``."""

from jobs.cli import main

if __name__ == "__main__":
    main()
