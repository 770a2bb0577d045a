"""Lets launchers start `python -m xeval`."""

from xeval.cli.app import app

app(prog_name="xeval")
