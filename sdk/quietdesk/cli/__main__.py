"""`python -m quietdesk.cli`: the same as the `quietdesk` command."""

from quietdesk.cli.main import main

if __name__ == "__main__":
    main()
