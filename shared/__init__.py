"""What the api, the workers and `falconer serve` share; imports no torch and no web framework.

All packages import the wire format from `protocol`, `origin` and `results`, the exceptions from
`errors`, names of models from `model_source`, and `falconer_version` from `version`. The other
modules are in packages.
"""
