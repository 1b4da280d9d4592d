"""Does pruning pay? Real training runs on CIFAR-10; `tools/prove/cifar10.py` is their command.

images (shards to arrays) -> supervised (training runs to scores) -> subsets (scores to ranks, by the product) ->
downstream (a subset to an accuracy) -> grid (which runs, in which order) -> report (rows to answers) -> figures
"""
