"""One run that answers what only a card can: `python -m bench.gpu.day`."""
