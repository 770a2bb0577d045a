"""The divergence of a student from what teachers give to whole words, and the loss with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdkernels import linear_cross_entropy, linear_distil_loss
from mergedistill.recipe.recipe import Distil
from mergedistill.targets.batch import RecordedTargets, WordTargets
from mergedistill.targets.online import Compared
from teacherzoo import SplitHead

_LOGITS_BYTES = 64 << 20  # of logits held at once
_LEAST = 2.0**-24  # probability of the rest, below which its logarithm is held


def compare_words(
    states: Tensor,
    head: SplitHead,
    labels: Tensor,
    targets: RecordedTargets,
    distil: Distil,
    divisor: Tensor | int | None,
) -> Compared:
    """The loss where some teachers are heard piece by piece and others word by word.

    L = (1 - α) CE + α (Σ_i a_i D(p_i ‖ q_i) + Σ_w b_w D(p_w ‖ q_w)) / N: over positions i and words w, with a_i and b_w the
    shares of the teachers that are heard so, and N the counted positions. Under a masked LM the pieces of a word that is
    masked whole are independent, and KL of a product is the sum of KLs, so a word weighs as its positions do together.

    Args:
        states: [N, H] of the student, before its decoder.
        head: of the student.
        labels: [N] gold pieces, -100 where nothing is predicted.
        targets: with `words`.
        distil: α, temperature, tail, divergence.
        divisor: see `linear_distil_loss`.

    Returns:
        The loss, its detached hard and soft part, the counted rows.
    """
    words = targets.words
    assert words is not None
    share = words.piece_weights.to(states.device)
    by_pieces = linear_distil_loss(
        states,
        head.weight,
        head.bias,
        labels,
        targets.topk_ids,
        targets.topk_logprobs,
        alpha=distil.alpha,
        temperature=distil.temperature,
        tail=distil.tail,
        divergence=distil.divergence,
        log_partition=targets.log_partition,
        row_weight=share,
        divisor=divisor,
    )
    # The shares divide the soft part alone: what they took of the cross-entropy is given back.
    part = (share < 1).nonzero().squeeze(1)
    count = by_pieces.rows if divisor is None else divisor
    hard = linear_cross_entropy(
        states[part],
        head.weight,
        head.bias,
        labels[part],
        row_weight=1 - share[part],
        divisor=count,
    )
    soft = word_divergence(states, head.weight, head.bias, words, distil) / count
    loss = by_pieces.loss + (1 - distil.alpha) * hard.loss + distil.alpha * soft
    return (
        loss,
        by_pieces.hard + hard.loss.detach(),
        by_pieces.soft + soft.detach(),
        by_pieces.rows,
    )


def word_divergence(
    states: Tensor, weight: Tensor, bias: Tensor | None, words: WordTargets, distil: Distil
) -> Tensor:
    """T² Σ_w b_w D(p_w, q_w) over the events of words and all else as one more: with the word alone, word against the rest.

    log q(event) = Σ_j log q_j(piece_j) over the masks that the word fills. D is the recipe's divergence. What is left out of
    the events counts as one outcome whatever `distil.tail` says: a word has no list that could be the whole distribution.

    Args:
        states: [N, H].
        weight: [V, H] of the student's decoder.
        bias: [V] or None.
        words: M words.
        distil: temperature, divergence.

    Returns:
        A scalar to differentiate; computed in float32, in float64 for such states.
    """
    word, place = (words.cells >= 0).nonzero(as_tuple=True)
    rows = states[words.cells[word, place]]
    logprobs = _logprobs(rows, weight, bias, words.ids[word, :, place], distil.temperature)
    student = logprobs.new_zeros(len(words.cells), words.ids.shape[1]).index_add(0, word, logprobs)
    teacher = words.logprobs.to(logprobs.dtype)
    divergences = _divergence(teacher, student, distil.divergence)
    return distil.temperature**2 * (words.weights.to(logprobs.dtype) * divergences).sum()


def _logprobs(
    rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
) -> Tensor:
    """[R, E] log softmax(z / T) at ids [R, E], 0 where the id is -1; no logits are kept for the backward pass."""
    size = max(1, _LOGITS_BYTES // (4 * len(weight)))
    parts = [
        checkpoint(
            _some_logprobs,
            rows[start : start + size],
            weight,
            bias,
            ids[start : start + size],
            temperature,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, len(rows), size)
    ]
    return torch.cat(parts)


def _some_logprobs(
    rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
) -> Tensor:
    logits = F.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))
    exact = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(exact) / temperature
        wanted = logits.gather(1, ids.clamp(min=0)) - logits.logsumexp(dim=1, keepdim=True)
        return torch.where(ids >= 0, wanted, 0.0)


def _divergence(teacher: Tensor, student: Tensor, divergence: str) -> Tensor:
    """[M] of log-probabilities [M, E] of events and their rest; an event that is minus infinity at the teacher is none."""
    event = teacher > -torch.inf
    student = torch.where(event, student, -torch.inf)
    p, log_p = _with_rest(teacher)
    q, log_q = _with_rest(student)
    if divergence == "forward_kl":
        return _kl(p, log_p, log_q)
    if divergence == "reverse_kl":
        return _kl(q, log_q, log_p)
    log_mean = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    return (_kl(p, log_p, log_mean) + _kl(q, log_q, log_mean)) / 2


def _with_rest(logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """[M, E + 1] probabilities and their logarithms; both 0 where there is no event."""
    event = logprobs > -torch.inf
    probabilities = torch.where(event, logprobs, 0.0).exp() * event
    rest = (1 - probabilities.sum(dim=1, keepdim=True)).clamp(min=0)
    log_events = torch.where(event, logprobs, 0.0)
    return torch.cat([probabilities, rest], dim=1), torch.cat(
        [log_events, rest.clamp(min=_LEAST).log()], dim=1
    )


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    return (p * (log_p - log_q)).sum(dim=1)
