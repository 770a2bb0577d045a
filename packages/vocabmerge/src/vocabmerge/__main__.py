"""Lets launchers start `python -m vocabmerge`."""

from vocabmerge.cli.app import app

app(prog_name="vocabmerge")
