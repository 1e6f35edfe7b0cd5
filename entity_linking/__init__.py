"""Text in, linked documents out."""
