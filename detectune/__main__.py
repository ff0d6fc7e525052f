"""`python -m detectune` is the same as `detectune`."""

from detectune.cli.main import main

if __name__ == "__main__":
    main()
