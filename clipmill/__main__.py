"""``python -m clipmill`` is the command ``clipmill``."""

from clipmill.jobs.cli import main

if __name__ == "__main__":
    main()
