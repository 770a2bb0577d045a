"""Several vocabularies become one, each language segmented as its teacher did."""
