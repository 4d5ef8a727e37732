"""Speculative decoding by prompt lookup.

Other packages import `drafts` (PromptLookup, add_drafts). Sampling verifies the drafts.
"""
