"""Two softmax maps compared without either in memory: what `attention_mse` and `relation_kl` share."""
