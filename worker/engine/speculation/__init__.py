"""Speculative decoding by prompt lookup.

Other packages import `drafts` (PromptLookup, add_drafts) and `verification` (verify_drafts,
VerifiedTokens).
"""
