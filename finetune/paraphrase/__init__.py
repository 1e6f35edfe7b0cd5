"""Paraphrases: generators that copy, matching models that judge them, and reinforcement between the two (RbM)."""
