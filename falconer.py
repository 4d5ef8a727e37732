"""The command line: `falconer serve | api | worker | bench | model`; no logic lives here."""
