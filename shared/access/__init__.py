"""Access to the service: API keys, the file that holds them, and the settings about both.

`api` authenticates requests with `api_keys` and `key_file`, and `falconer keys` changes the file.
`settings` has the fields that `api` and `serve` share.
"""
