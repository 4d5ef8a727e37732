"""Record in Redis which workers are alive, and which model they serve or load.

Other packages import `Registry`, `RegisteredCard` and `LoadingWorker` from `worker_registry`,
`announce_model` from `loading_model`, the adapters loaded at run time from `adapter_registry`, and
`QueueSettings`, the settings that name the models, from `queue_settings`.
"""
