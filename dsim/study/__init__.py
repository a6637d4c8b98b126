"""Studies: TOML in, cases, a table of results out."""
