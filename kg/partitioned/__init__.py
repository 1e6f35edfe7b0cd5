"""TransE over a table larger than memory: entities in partitions, triples in buckets, both on disk.

`train.fit_partitioned` is the way in. The idea is PyTorch-BigGraph's (Lerer et al. 2019).
"""
