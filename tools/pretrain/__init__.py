"""Label-free pretraining of a small image encoder on webdataset shards; `tools/pretrain_encoder.py` is its command.

settings -> images (shards to an array) -> augment (array to views) -> objectives (views to loss) -> training -> export
"""
