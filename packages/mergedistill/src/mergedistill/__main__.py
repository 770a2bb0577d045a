"""Lets launchers start `python -m mergedistill`."""

from mergedistill.cli.app import app

app(prog_name="mergedistill")
