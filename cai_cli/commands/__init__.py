"""One module per subcommand: flags in, one call out. Slow imports are inside the functions."""
