"""Which teacher is best at which language, and what is suspicious in a corpus."""
