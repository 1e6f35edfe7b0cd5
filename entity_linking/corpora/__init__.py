"""Readers of text by format, one file a family; `entity_linking.corpus` has the table of them."""
