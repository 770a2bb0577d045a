"""Students of drawn ids: the loss has no tail, and recordings combine where that has a meaning."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdkernels import linear_distil_loss
from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import TeacherEnsemble
from mergedistill.recipe.read import altered
from mergedistill.recipe.recipe import Distil, Recipe
from mergedistill.run.run import run
from mergedistill.targets.combined import CombinedSignals
from mergedistill.training.schedule import batch_inputs
from teacherzoo import Corpus, Masking, Signals, record
from teacherzoo.signals.shard import ShardArrays
from teacherzoo.text.words import WORD_RULE
from vocabmerge import identity_map

Recipes = Callable[..., Recipe]
WHOLE_WORDS = Masking(policy="whole_word", mask_share=1.0, random_share=0.0)


@pytest.fixture(scope="module")
def drawn(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings `NAME-SAMPLER` of one text at temperature 2."""
    folder = tmp_path_factory.mktemp("drawn")
    corpus = Corpus("qav", town / "qav.txt", limit=60)
    for name, sampler in (("wp", "random"), ("wp-other", "random"), ("wp-other", "topk"), ("uni", "random")):  # fmt: skip
        record(
            town / name,
            [corpus],
            folder / f"{name}-{sampler}",
            sampler=sampler,  # type: ignore[arg-type]  # one of the two
            temperatures=(2.0,),
            masking=WHOLE_WORDS,
            block_length=32,
        )
    return folder


def _combined(drawn: Path, *names: str, combine: str = "mixture") -> CombinedSignals:
    weights = dict(zip(names, (1.0, 3.0), strict=True))
    settings = {name: Signals(drawn / name).settings for name in names}
    return CombinedSignals(
        {name: drawn / name for name in names},
        {
            name: identity_map(own.space.size, digest=own.tokenizer)
            for name, own in settings.items()
        },
        TeacherEnsemble(weights=weights, combine=combine),  # type: ignore[arg-type]
        temperature=2.0,
        max_lost=1.0,
    )


def test_beside_combined_shards_one_of_each_teacher_is_held(town: Path, tmp_path: Path) -> None:
    names = ("wp", "wp-other")
    for name in names:
        corpus = Corpus("qav", town / "qav.txt", limit=60)
        record(town / name, [corpus], tmp_path / name, block_length=32, shard_bytes=128)
    signals = _combined(tmp_path, *names)
    assert len(signals.manifest.shards) > 12

    signals.usage()

    gc.collect()
    assert sum(type(held) is ShardArrays for held in gc.get_objects()) <= 8 + len(names)


def _weights(ids: torch.Tensor, logprobs: torch.Tensor, size: int) -> torch.Tensor:
    """[N, V] at temperature 2, -1 left out."""
    mass = torch.where(ids >= 0, (logprobs.double() / 2).exp(), 0)
    return torch.zeros(len(ids), size, dtype=torch.float64).scatter_add_(1, ids.clamp(min=0), mass)


def test_the_gradient_is_that_of_cross_entropy_with_the_expanded_weights(drawn: Path) -> None:
    signals = Signals(drawn / "wp-random")
    distil = Distil(sampler="random", temperature=2.0)
    inputs = batch_inputs(signals, [0, 1, 2, 3], distil)
    targets, size = inputs["targets"], signals.settings.space.size
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(inputs["labels"]), 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(size, 8, generator=generator, dtype=torch.float64)
    student, dense = (hidden.clone().requires_grad_() for _ in range(2))

    linear_distil_loss(
        student, weight, None, inputs["labels"], targets.topk_ids, targets.topk_logprobs,
        alpha=1.0, temperature=2.0, tail=distil.loss_tail, log_partition=targets.log_partition,
    ).loss.backward()  # fmt: skip
    expanded = _weights(targets.topk_ids, targets.topk_logprobs, size)
    cross_entropy = torch.nn.functional.cross_entropy(dense @ weight.T / 2, expanded)
    (4 * cross_entropy).backward()

    torch.testing.assert_close(expanded.sum(1), torch.ones(len(expanded), dtype=torch.float64))
    torch.testing.assert_close(student.grad, dense.grad, rtol=1e-5, atol=1e-8)


def test_a_mixture_of_drawn_ids_is_the_weighted_mean_of_their_weights(drawn: Path) -> None:
    names = ("wp-random", "wp-other-random")
    size = Signals(drawn / names[0]).settings.space.size
    rows = range(10)
    single = [Signals(drawn / name).batch(rows) for name in names]
    together = _combined(drawn, *names).batch(rows)

    first, second = (_weights(batch.topk_ids, batch.topk_logprobs, size) for batch in single)
    mixed = _weights(together.topk_ids, together.topk_logprobs, size)

    torch.testing.assert_close(mixed, (first + 3 * second) / 4, rtol=1e-5, atol=1e-7)
    assert (together.tail.abs() < 1e-6).all()
    assert not torch.equal(first, second)


def test_mince_goes_by_the_recorded_loss_of_teachers_with_one_tokenizer(drawn: Path) -> None:
    names = ("wp-random", "wp-other-random")
    rows = range(10)
    single = [Signals(drawn / name).batch(rows) for name in names]
    best = torch.stack([batch.teacher_loss for batch in single]).argmin(dim=0)

    chosen = _combined(drawn, *names, combine="mince").batch(rows)

    for row in rows:
        here = chosen.rows == row
        assert torch.equal(chosen.topk_ids[here], single[int(best[row])].topk_ids[here])


@pytest.mark.parametrize(
    ("names", "combine", "sentence"),
    [
        (("wp-random", "wp-other-topk"), "mixture", "was recorded with sampler topk, .* with random"),
        (("wp-random", "uni-random"), "mince", "drawn ids do not tell that; set combine: mixture"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(
    drawn: Path, names: tuple[str, str], combine: str, sentence: str
) -> None:
    with pytest.raises(StageError, match=sentence):
        _combined(drawn, *names, combine=combine)


def test_recordings_by_two_rules_for_words_are_not_set_beside_each_other(
    drawn: Path, tmp_path: Path
) -> None:
    """Words are met by their numbers, which would stand for other words."""
    shutil.copytree(drawn / "wp-random", tmp_path / "wp-random")
    shutil.copytree(drawn / "uni-random", tmp_path / "uni-random")
    assert len(_combined(tmp_path, "wp-random", "uni-random"))
    file = tmp_path / "uni-random" / "signals.json"
    file.write_text(file.read_text().replace(WORD_RULE, "other words"))

    with pytest.raises(
        StageError,
        match=r"uni-random was recorded with word_rule other words, .*wp-random with words of 2026-11; ",
    ):
        _combined(tmp_path, "wp-random", "uni-random")


def test_a_recipe_draws_trains_and_says_so(recipe_of: Recipes) -> None:
    recipe = recipe_of(
        distil={"block_length": 32, "sampler": "random", "draws": 5, "temperature": 2.0},
        languages={"qav": recipe_of().languages["qav"].corpus},
        teachers=[recipe_of().teachers[0].model_dump(include={"teacher", "languages"})],
        train={"steps": 2, "tokens": 256, "checkpoint_every": 2},
    )

    run(recipe)

    (folder,) = {path.parent for path in Path(recipe.out).rglob("signals.json")}
    settings = Signals(folder).settings
    assert (settings.sampler, settings.draws, settings.drawn_at) == ("random", 5, 2.0)
    card = (Path(recipe.out) / "student" / "README.md").read_text()
    assert "5 predictions drawn" in card
    assert "tail drop" in card


def test_a_recipe_with_drawn_ids_can_be_altered_and_stated_again(recipe_of: Recipes) -> None:
    drawn = altered(recipe_of(), {"distil.sampler": "random"})

    assert (drawn.distil.ids_drawn, drawn.distil.loss_tail) == (12, "drop")
    assert Recipe.model_validate(drawn.model_dump()).distil.ids_drawn == 12
    assert altered(drawn, {"distil.sampler": "topk"}).distil.loss_tail == "bucket"
    assert np.isclose(altered(drawn, {"distil.alpha": 0.5}).distil.alpha, 0.5)
