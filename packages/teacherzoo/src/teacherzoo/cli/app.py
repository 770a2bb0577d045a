"""The command line of teacherzoo."""

from teacherzoo.cli import pretrain as cli_pretrain
from teacherzoo.cli import signals as cli_signals
from teacherzoo.cli import teachers as cli_teachers
from teacherzoo.cli import vectors as cli_vectors
from teacherzoo.cli.console import package_app

app = package_app(
    "teacherzoo",
    "Masked-LM teachers: who they are, how good each is at each language, and what they said.",
)
cli_teachers.register(app)
cli_pretrain.register(app)
cli_signals.register(app)
cli_vectors.register(app)
