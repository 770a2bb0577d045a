"""What the user asks for: languages, corpora, teachers, and the stages that follow from them."""
