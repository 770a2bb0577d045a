"""Lets launchers start `python -m bistil`."""

from bistil.cli import app

app(prog_name="bistil")
