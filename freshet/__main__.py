"""`freshet` and `python -m freshet`: the command line."""

from streams.cli import main

if __name__ == "__main__":
    main()
