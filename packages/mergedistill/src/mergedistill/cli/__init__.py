"""The commands and the tables they print."""
