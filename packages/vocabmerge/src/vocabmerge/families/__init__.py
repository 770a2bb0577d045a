"""One class per tokenizer model: keys, roles, segmentation, rewriting, uniting and calibrating of its pieces."""
