"""Lets launchers start `python -m mergedistill`."""

from mergedistill.cli import app

app(prog_name="mergedistill")
