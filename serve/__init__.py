"""`falconer serve`: Redis, the api and the workers as one supervised service on one machine.

The command line imports `main` and `settings`. All other modules are internal.
"""
