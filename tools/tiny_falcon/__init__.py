"""Training of the bundled tiny Falcon: a generated corpus, a tokenizer, and an evaluation."""
