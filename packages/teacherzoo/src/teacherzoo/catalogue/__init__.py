"""Which teachers there are, with languages, licence and size."""
