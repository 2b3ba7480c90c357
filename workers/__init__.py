"""The models that do the work: one file a backend, all behind the protocols of `workers.base`."""
