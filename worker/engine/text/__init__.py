"""Text: token ids to text, stop strings, the end of a sequence.

Other packages import `detokenizer` (TokenBytes, StopStrings), `visible_text` (VisibleText) and
`sequence_text` (SequenceText).
"""
