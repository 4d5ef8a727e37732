"""Checkpoints: finding, checking, reading and writing their files.

Other packages import `folder` (resolve_checkpoint), `weights` (plan_loading, load_weights),
`shards` (ReadProgress), `linear_weights` (LinearWeights), `info` (describe), `adapter_weights` and
`adapter_folders` (adapters), `random_checkpoint` and `tiny` (the bundled model).
"""
