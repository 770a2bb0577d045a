"""The command line of bistil."""

from bistil.cli import adapt, compare, export, extract, fit, make, sft
from teacherzoo.cli.console import package_app

app = package_app("bistil", "A small bilingual model out of a big multilingual one.")
for command in (make, fit, extract, sft, adapt, compare, export):
    command.register(app)
