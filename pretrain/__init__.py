"""Linked documents in, a knowledge-enhanced checkpoint out."""
