"""Lets launchers start `python -m vocabmerge`."""

from vocabmerge.cli import app

app(prog_name="vocabmerge")
