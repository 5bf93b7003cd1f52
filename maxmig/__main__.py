"""`python -m maxmig`: the same as the `maxmig` command."""

from maxmig.cli import main

main.run()
