"""Lets launchers start `python -m bistil`."""

from bistil.cli.app import app

app(prog_name="bistil")
