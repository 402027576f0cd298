"""`python -m aronnax` is the `aronnax` command."""

from aronnax.cli.main import main

main()
