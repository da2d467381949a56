"""``python -m tunesearch``."""

from tunesearch.cli import main

if __name__ == "__main__":
    main()
