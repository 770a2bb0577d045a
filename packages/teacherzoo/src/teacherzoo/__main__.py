"""Lets launchers start `python -m teacherzoo`."""

from teacherzoo.cli.app import app

app(prog_name="teacherzoo")
