"""Beam search, beam-sample and diverse beam search, for one request at a time.

Other packages import `output` (BeamState: the search of a request) and `candidates`
(Candidates: what a step proposes).
"""
