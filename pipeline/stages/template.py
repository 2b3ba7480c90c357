"""Prompt templates: what a route makes of a question and the passages found for it. Rendered in the sandbox."""

from collections.abc import Sequence

from jinja2 import Template

from pipeline.stages.sandbox import UNPARSABLE, Meter, Sandbox, TemplateFailed, TemplateRefused, refusal
from workers.base import Passage

__all__ = ["DEFAULT_TEMPLATE", "PromptTemplate", "TemplateFailed", "TemplateRefused"]

_SANDBOX = Sandbox()

DEFAULT_TEMPLATE = """\
{% if system %}{{ system }}

{% endif %}{% if passages %}Answer from the numbered passages below and from nothing else. After each statement put the
number of the passage it comes from in square brackets, like [1]. If the passages do not answer the question, say so.
{% for passage in passages %}
[{{ passage.number }}] {{ passage.source }}{% if passage.title %}, {{ passage.title }}{% endif %}

{{ passage.text }}
{% endfor %}{% elif searched %}No passage of the documents fits the question. Say that the documents do not answer it.
{% endif %}"""


class PromptTemplate:
    """A route's template, compiled once and rendered for each request.

    Variables: `system` (text), `question` (text), `passages` (each with number, text, source, title, score). Raises
    `TemplateRefused` on construction and `TemplateFailed` on rendering.
    """

    def __init__(self, source: str, *, max_chars: int, timeout: float) -> None:
        self.source = source
        self.max_chars = max_chars
        self.timeout = timeout
        try:
            self._template: Template = _SANDBOX.from_string(source)
        except UNPARSABLE as error:
            raise refusal(error) from error

    def render(self, *, system: str, question: str, passages: Sequence[Passage], searched: bool = True) -> str:
        numbered = [
            {"number": n, "text": p.text, "source": p.source, "title": p.title, "score": p.score}
            for n, p in enumerate(passages, 1)
        ]
        meter = Meter(self.max_chars, self.timeout)
        try:
            text = self._template.render(
                system=system,
                question=question,
                passages=numbered,
                searched=searched,
                _meter=meter,
            )
        except TemplateFailed:
            raise
        except Exception as error:
            raise TemplateFailed(f"the template failed: {type(error).__name__}: {error}") from error
        meter.fits(len(text))
        return text
