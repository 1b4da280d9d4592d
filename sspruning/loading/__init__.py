"""Feeding trainers: what a selection says of a key, and pruned shards as a webdataset."""
