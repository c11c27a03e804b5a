"""The command line: `main` finds the subcommand, and every subcommand is a module of its name."""
