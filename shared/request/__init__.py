"""The checks of a request before it is queued: parameters, prompt, lengths and chat template.

Other packages import `GenerateKwargs` from `parameters`, `PromptEncoder` from `prompt`, the base
models from `base_model`, field types from `parameter_types`, `plan_lengths` from `lengths`, and
`compile_template` from `chat_template`. `limits` has the numbers that the engine checks too.
"""
