"""The checks and measurements of the engine on a GPU, in one command: `python -m bench.gpu`."""
