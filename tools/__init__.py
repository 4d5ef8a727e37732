"""Tools of the project that are not installed: training of the tiny model, scaling simulation."""
