"""Text: token ids to text, stop strings, the end of a sequence.

Other packages import `detokenizer` (TokenBytes, Detokenizer, StopStrings) and `sequence_text`
(SequenceText).
"""
