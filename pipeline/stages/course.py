"""The ways that a request can take: what the door and the stages do with it, by its route and its worker."""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from config.schema import RouteSection
from pipeline.core.messages import AssembleOutput
from pipeline.policy.choice import by_chance, by_session
from pipeline.policy.degrade import Step
from pipeline.policy.lane import Lane
from pipeline.stages.assemble import PromptPlan
from pipeline.stages.filters import FilterFactory


class Course(msgspec.Struct, frozen=True, eq=False):
    """What becomes of the requests of one route that one worker serves. Travels with them, so that each is treated to
    its end as its route was when it came in.

    `lane` is the worker's. `wait_budget` is in seconds, None for the usual one; `steps` say what requests get less of
    under pressure. An empty sequence of `filters` costs nothing per delta. `fallbacks` are taken in their order when
    the worker fails before its first delta, or may not be called; each of them has those that follow it.
    """

    section: RouteSection
    lane: Lane[AssembleOutput]
    plan: PromptPlan
    filters: Sequence[FilterFactory] = ()
    wait_budget: float | None = None
    steps: Sequence[Step] = ()
    fallbacks: "Sequence[Course]" = ()

    def open(self, now: float) -> "Course | None":
        """This one, or the first fallback, of which a replica may be called now."""
        if not self.lane.reopens(now):
            return self
        return next((course for course in self.fallbacks if not course.lane.reopens(now)), None)

    def reopens(self, now: float) -> float:
        """Seconds until `open` has something to say."""
        return min(course.lane.reopens(now) for course in (self, *self.fallbacks))


class Doorway(msgspec.Struct, frozen=True, eq=False):
    """A route, and the courses that its new requests can take, by worker, with weights above zero. `only` is the one
    where there is no other: then nothing has to be chosen."""

    section: RouteSection
    courses: Mapping[str, Course]
    weights: Mapping[str, float]
    only: Course | None

    @classmethod
    def of(cls, section: RouteSection, courses: Mapping[str, Course], weights: Mapping[str, float]) -> "Doorway":
        only = next(iter(courses.values())) if len(courses) == 1 else None
        return cls(section, courses, weights, only)

    def course(self, session: str | None, chance: Callable[[], float]) -> Course | None:
        """That of a new request: a session's is always the same, of others `chance` decides. None where no worker takes
        requests."""
        if self.only is not None or not self.courses:
            return self.only
        worker = by_session(session, self.weights) if session else by_chance(chance(), self.weights)
        return self.courses[worker]

    def possible(self, session: str | None) -> Collection[Course]:
        """Those that a request may take of which no more than this is known; without a session, any."""
        if session and len(self.courses) > 1:
            return (self.courses[by_session(session, self.weights)],)
        return self.courses.values()
