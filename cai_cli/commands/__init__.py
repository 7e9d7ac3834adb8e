"""One module a subcommand: options -> one call. Heavy imports stand inside the functions."""
