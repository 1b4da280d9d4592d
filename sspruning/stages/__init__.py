"""The flow, one file a verb: inspect, pack, embed, cluster, score, select, write, verify, status, run, demo."""
