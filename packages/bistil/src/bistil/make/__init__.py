"""One command from a model to a small one in some languages, with proof."""
