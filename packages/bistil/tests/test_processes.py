"""The same fine-tuning in one process, in two, and with its optimizer cut up by DeepSpeed."""

import json
import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from bistil.encoders.body import body_parameters
from bistil.errors import AdaptError
from bistil.lottery.config import Sparsity, TrainingPlan
from bistil.lottery.lottery_ticket import lottery_ticket
from bistil.sparse.apply import apply
from bistil.sparse.files import read_sparse

CHILD = """
import itertools, json, sys
from pathlib import Path
import torch
from torch import nn
from safetensors.torch import save_file
from bistil.lottery.config import Evaluation, Sparsity, TrainingPlan
from bistil.lottery.lottery_ticket import lottery_ticket
from teacherzoo.processes import rank, world_size

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.LayerNorm(8))
        self.head = nn.Linear(8, 3)

    def forward(self, num_items_in_batch=None, **batch):
        logits = self.head(torch.tanh(self.encoder(batch["input_ids"])))
        total = nn.functional.cross_entropy(logits, batch["labels"], reduction="sum", ignore_index=-100)
        return {"loss": total / num_items_in_batch}

def batches(steps):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(12, (steps, 8), generator=generator)
    labels = torch.randint(3, (steps, 8), generator=generator)
    labels[:, :3] = -100  # the first half of each step has fewer labels than the second
    part = 8 // (world_size() * passes)
    return [
        {"input_ids": i[at : at + part], "labels": y[at : at + part]}
        for i, y in zip(ids, labels) for at in range(0, 8, part)
    ]

work, out, arguments, decay = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
passes = arguments.get("gradient_accumulation_steps", 1)
model = Model()
plan = TrainingPlan(steps=6, learning_rate=0.02, weight_decay=decay, evaluate_every=1, patience=2, arguments=arguments)
scores = itertools.count()  # ever better in the first process, ever worse in the others, which alone would stop early
sparsity = Sparsity(density=0.4, l1=0.01, full_steps=3, values="float32")
ticket = lottery_ticket(model, model, batches, plan, sparsity, work, evaluation=Evaluation(measure=lambda: next(scores) * (1 if rank() == 0 else -1)))
assert ticket.last.steps == 6
if rank() == 0:
    state = {f"{n}/{m}": t for n, d in ticket.body.items() for m, t in (("i", torch.from_numpy(d.indices)), ("v", d.values))}
    save_file({**state, "head": model.head.weight.detach().clone()}, out)
"""
ZERO = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


def run(python, folder, name, **options):
    """The tensors that the program wrote."""
    launched(python, folder, name, **options)
    return load_file(folder / name)


def launched(python, folder, name, *, processes=1, arguments=None, decay=0.0, program=CHILD):
    """The program, come to its end in every process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "--no-python", python]  # fmt: skip
    out = folder / name
    done = subprocess.run(
        [
            python, *(launcher if processes > 1 else []), str(_script(folder, program)), str(folder / f"{name}.work"),
            str(out), json.dumps(arguments or {}), str(decay),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def _script(folder, program):
    file = folder / "program.py"
    file.write_text(program)
    return file


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def alone(python, tmp_path_factory):
    """What one process makes of whole steps, without and with weight decay."""
    folder = tmp_path_factory.mktemp("alone")
    return {decay: run(python, folder, f"d{decay}", decay=decay) for decay in (0.0, 0.3)}


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_two_processes_make_what_one_makes(python, tmp_path, alone, decay):
    assert_same(run(python, tmp_path, "out", processes=2, decay=decay), alone[decay])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_leaves_frozen_entries_alone(python, tmp_path, alone, stage):
    """`lottery_ticket` itself refuses an outcome in which one bit of a frozen entry moved."""
    deepspeed = {**ZERO, "zero_optimization": {"stage": stage}}
    made = run(python, tmp_path, "out", processes=2, arguments={"deepspeed": deepspeed})
    assert_same(made, alone[0.0])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"weight_decay": 0.1}, "weight_decay to 0"), ({"bf16": True}, "float32")],
)
def test_what_deepspeed_cannot_do_to_single_entries_is_refused(tmp_path, changes, fault):
    plan = TrainingPlan(steps=1, learning_rate=0.1, arguments={"deepspeed": {}}, **changes)
    with pytest.raises(AdaptError, match=fault):
        lottery_ticket(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), lambda _: [], plan, Sparsity(), tmp_path)  # fmt: skip


PIPELINE = """
import json, sys
from pathlib import Path
from bistil.tasks.adapt import adapt
from bistil.tasks.teacher import TaskTeacher
from bistil.lottery.config import Sparsity
from bistil.tasks.training import TaskTraining
from xeval import LocalFolder, Protocol

work, out, arguments = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
places = arguments.pop("places")
protocol = Protocol(steps=4, evaluate_every=2, batch_size=4, learning_rate=3e-3, max_length=40, precision="float32", weight_decay=0.0)
adapt(
    places["student"], out.with_suffix(".folder"), task="pos", source=LocalFolder(Path(places["tasks"])), language="en",
    teacher=TaskTeacher(model=places["teacher"]),
    training=TaskTraining(protocol=protocol, sparsity=Sparsity(full_steps=2), arguments=arguments),
)
"""


@pytest.mark.slow
def test_adapting_in_two_processes_under_deepspeed_gives_a_whole_folder(python, tmp_path, student, teacher, tasks):  # fmt: skip
    places = {"student": str(student), "teacher": str(teacher), "tasks": str(tasks)}
    deepspeed = {**ZERO, "zero_optimization": {"stage": 2}}
    launched(python, tmp_path, "out", processes=2, program=PIPELINE, arguments={"deepspeed": deepspeed, "places": places})  # fmt: skip
    made = read_sparse(tmp_path / "out.folder" / "task.sft.safetensors")
    plain = AutoModel.from_pretrained(student)
    trainable = sum(p.numel() for n, p in body_parameters(plain).items() if "LayerNorm" not in n)
    assert made.count == round(0.08 * trainable)
    apply(plain, made)
    adapted = body_parameters(AutoModel.from_pretrained(tmp_path / "out.folder"))
    assert all(
        torch.equal(parameter, adapted[name]) for name, parameter in body_parameters(plain).items()
    )
