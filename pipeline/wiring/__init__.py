"""The composition root: the only place that builds concrete classes out of the configuration."""

from pipeline.wiring.parts import Renewed, check_templates, check_workers
from pipeline.wiring.pipeline import Pipeline, build

__all__ = ["Pipeline", "Renewed", "build", "check_templates", "check_workers"]
