"""Files and batches in Redis: what the api needs to run a batch to its end on any replica.

The api imports `FileStore` from `files`, its storages from `file_data` and `bucket_data`,
`BatchStore` and its data from `batches`, `BatchLane` from `lane`, and requests for pages from
`ids`; the client of the HTTP interface shares `status`. Each change of a batch is one script of
`shared.queue`.
"""
