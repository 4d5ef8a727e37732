"""The routes, one module for each resource. `app` includes the `router` of each module."""
