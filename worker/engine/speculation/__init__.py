"""Speculative decoding by prompt lookup.

Other packages import `prompt_lookup` (PromptLookup). The engine verifies the drafts.
"""
