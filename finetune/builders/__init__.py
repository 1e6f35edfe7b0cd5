"""Builders of task examples from a graph and a corpus, one a module; `finetune.examples` chooses among them."""
