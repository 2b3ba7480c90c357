"""The five stages, on the one run loop of `pipeline.stages.base`."""
