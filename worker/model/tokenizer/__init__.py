"""The tokenizer's files: tokenizer, special tokens, chat template.

Other packages import `tokenizer_files` (load_tokenizer), `special_tokens` and
`chat_template_files`.
"""
