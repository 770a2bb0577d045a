"""Lets launchers start `python -m xeval`."""

from xeval.cli import app

app(prog_name="xeval")
