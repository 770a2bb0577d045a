"""The commands, their progress and their refusals."""
