"""Phase 1: a bilingual student of one multilingual teacher, distilled on raw text."""
