"""What a call brings for each row, and which rows count."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.row_checks import require_ids_in_vocabulary, require_labels_in_vocabulary


def weight_of_rows(row_weight: Tensor | None, labels: Tensor) -> Tensor:
    """[N]; 1 unless given."""
    return torch.ones(len(labels), device=labels.device) if row_weight is None else row_weight


class Rows(NamedTuple):
    """Everything that has a row dimension. Without a teacher there is no top-k."""

    hidden: Tensor  # [N, H]
    labels: Tensor  # [N]
    scale: Tensor  # [N] factor of each row
    topk_ids: Tensor | None = None  # [N, K]
    topk_logprobs: Tensor | None = None  # [N, K]
    log_partition: Tensor | None = None  # [N]

    def select(self, rows: Tensor) -> "Rows":
        """The same for some rows."""
        return Rows(*(None if part is None else part.index_select(0, rows) for part in self))  # type: ignore[arg-type]  # the last three alone may be None

    def check(self, operation: str, V: int) -> bool:
        """Refuse labels and ids that are no column; returns whether a row may have an id twice. Waits for the device."""
        require_labels_in_vocabulary(operation, self.labels, V)
        return self.topk_ids is not None and require_ids_in_vocabulary(operation, self.topk_ids, V)

    def mask(self, counted: Tensor, V: int) -> "Rows":
        """The same without what other rows hold, and without a look at the values.

        Rows that do not count get a hidden state, a label, a list and a factor of which nothing comes; the loss of a row
        whose label or id is no column, which would read foreign memory, becomes NaN.
        """
        left_out = ~counted
        labels = self.labels.masked_fill(left_out, 0)
        bad = (labels < 0) | (labels >= V)
        topk_ids, log_partition = self.topk_ids, self.log_partition
        if topk_ids is not None:
            topk_ids = topk_ids.masked_fill(left_out.unsqueeze(1), -1)
            wrong = (topk_ids < -1) | (topk_ids >= V)
            bad = bad | wrong.any(dim=1)
            topk_ids = topk_ids.masked_fill(wrong, -1)
        if log_partition is not None:
            log_partition = log_partition.masked_fill(left_out, 0.0)
        return Rows(
            self.hidden.masked_fill(left_out.unsqueeze(1), 0.0),
            labels.masked_fill(bad, 0),
            self.scale.masked_fill(left_out, 0.0).masked_fill(bad, torch.nan),
            topk_ids,
            self.topk_logprobs,
            log_partition,
        )
