"""Text for prompts: plain words in an endless round, cut out where they are wanted."""

_WORDS = """
river stone market window garden letter morning engine bridge forest village paper winter number station silver
question answer reason measure balance harbour mountain teacher student doctor printer camera kitchen bottle basket
ladder summer valley island copper cotton leather timber mirror candle blanket carpet ticket journey railway airport
harvest orchard meadow thunder shadow sunrise compass anchor lantern captain painter writer reader farmer builder
explain describe compare collect deliver repair arrange discover remember prepare consider continue decide improve
gentle narrow bright silent steady early honest simple common useful certain careful modern ancient distant ordinary
before after between around against without during within because however always never often seldom perhaps together
one two three four five six seven eight nine ten hundred thousand first second third last next only every several
""".split()

_ROUND = (" ".join(_WORDS) + " ").encode("ascii")  # nothing in it needs an escape in JSON
_BEGINS = [0]
for _word in _WORDS:
    _BEGINS.append(_BEGINS[-1] + len(_word) + 1)


def text(start: int, count: int) -> bytes:
    """`count` words, at least one, from the `start`-th of the round on, with single spaces between them."""
    first = start % len(_WORDS)
    rounds, rest = divmod(first + count, len(_WORDS))
    return (_ROUND * (rounds + 1))[_BEGINS[first] : rounds * len(_ROUND) + _BEGINS[rest] - 1]
