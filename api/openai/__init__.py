"""OpenAI's interface: requests become jobs, and results and tokens its answers.

`completions` has the bodies and views of its routes, on the bases in `request` and `view`. Others
import `schemas` (models and errors), `answers`, the error codes of `fields`, and the bodies of
`tokenizer`.
"""
