"""The term of an encoder's hidden states, with the linear map that is learned for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mergedistill.targets.batch import StatesTargets
from mergedistill.targets.encoder_states import EncoderStates, word_means

_LEAST = 1e-6  # of the encoder's mean square, below which its variance is held


class StatesTerm(nn.Module):
    """L_states = Σ_w ‖A s_w + b - t_w‖² / (M v), over the M words of a batch that the student and the encoder both have.

    s_w is the mean of the student's last hidden states over the word's pieces, masked or not, t_w that of the encoder's over its own,
    of text without masks; v = Σ_w ‖t_w - t̄‖² / (M - 1) is the encoder's variance. So the term is the share of the variance that
    the student does not explain: about 1 where it knows no more than the mean, 0 where it knows all. Divided by ‖t_w‖² or as a cosine, it would be
    small from the start: much of an encoder's states is the same for all words (Ethayarajh 2019). It reads the text that is hidden from the
    student, as the teacher of data2vec does (Baevski et al. 2022). A and b start at 0; they belong to the training, not to the student.

    Args:
        encoder: that is asked.
        width: of the student's hidden states.
        weight: of the term in the loss.
    """

    def __init__(self, encoder: EncoderStates, *, width: int, weight: float) -> None:
        super().__init__()
        self._encoder, self.weight = encoder, weight
        self.map = nn.utils.skip_init(nn.Linear, width, encoder.width)  # no random number is drawn
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, hidden: Tensor, targets: StatesTargets) -> Tensor:
        """The term, in float32; 0 for fewer than two words, of which there is no variance.

        Args:
            hidden: [B, S, H] the student's last states.
            targets: of the same batch.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            student = word_means(hidden, targets.cells, targets.words, targets.count)
            weight, bias = self.map.weight.float(), self.map.bias.float()
            encoder = self._encoder.words(targets)
            return unexplained(nn.functional.linear(student, weight, bias), encoder)


def unexplained(student: Tensor, encoder: Tensor) -> Tensor:
    """The share of the encoder's variance over M words that is not in the student's states; 0 for fewer than two.

    Args:
        student: [M, H].
        encoder: [M, H], without gradients.

    Example:
        >>> encoder = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> unexplained(torch.tensor([[2.0, 0.0], [2.0, 1.0]]), encoder)
        tensor(0.7500)
    """
    distance = (student - encoder).square().sum()
    count = len(encoder)
    if count < 2:  # still of the map, whose gradient every process waits for
        return 0 * distance
    variance = encoder.var(dim=0).sum()
    least = _LEAST * encoder.square().sum() / count
    return distance / (
        count * torch.maximum(variance, least).clamp_min(torch.finfo(encoder.dtype).tiny)
    )
