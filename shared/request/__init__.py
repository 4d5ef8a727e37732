"""The checks of a request before it is queued: parameters, prompt, lengths and chat template.

Other packages import `GenerateKwargs` from `parameters`, `PromptEncoder` and `check_prompt`
from `prompt`, the base models from `base_model`, field types and `rule_error` from
`parameter_types`, `plan_lengths` from `lengths`, and `ChatTemplate` and `compile_template` from
`chat_template`. `structured_outputs` has the formats of texts, with their field types. `limits` has
the numbers that the engine checks too.
"""
