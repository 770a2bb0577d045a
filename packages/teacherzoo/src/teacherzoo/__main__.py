"""Lets launchers start `python -m teacherzoo`."""

from teacherzoo.cli import app

app(prog_name="teacherzoo")
