"""The command line: `main` finds the subcommand, a function of `commands` or a module of its name."""
