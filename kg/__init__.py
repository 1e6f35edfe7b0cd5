"""Graph in, ids and vectors out."""
