"""Checkpoints: finding, checking, reading and writing their files.

Other packages import `folder` (resolve_checkpoint), `weights` (plan_loading, load_weights), `info`
(describe_plan), `lora` and `adapter_folders` (adapters), `json_fields` (typed JSON),
`random_checkpoint` and `tiny` (the bundled model).
"""
