"""The worker that is a class of somebody's own, in the shard's process: found, made, and made safe."""

import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from config.paths import dotted
from config.schema import PythonWorker
from workers.base import ModelWorker
from workers.errors import WorkerUnavailable
from workers.python_adapter import adapted
from workers.python_results import words_of

GROUP = "headgate.workers"
_FORMS = f"package.module:Class, or the name of an entry point in the group {GROUP}"
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MAX_TOLD = 500  # characters of an exception


def load(section: PythonWorker) -> ModelWorker:
    """The section's class, found, called with its options, and adapted.

    A dotted path is looked for in the section's folder, then where Python looks (what is installed, PYTHONPATH), then
    in the working directory. Whatever the code raises becomes `WorkerUnavailable`, also what would end the process: a
    shard hears nothing of Ctrl-C, and `headgate check` runs this in a thread, which does not either.
    """
    with _looking_in(section.folder):
        made = _made(_found(section.class_, section.folder), section.class_, section.options)
        try:
            if callable(getattr(made, "generate", None)):
                return adapted(made, section.name)
        except BaseException as error:
            raise _broken(f"{section.class_} cannot be used", error) from error
    raise WorkerUnavailable("class", f"{section.class_} has no method generate", "a class with generate(self, request)")


def _found(name: str, folder: str | None) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    importlib.invalidate_caches()  # it may have come since
    found = _of_module(module, attribute, folder) if attribute else _of_entry_point(name)
    if not callable(found):
        raise WorkerUnavailable("class", f"{name} is a {type(found).__name__}", "a class")
    made: Callable[..., Any] = found
    return made


def _of_module(name: str, attribute: str, folder: str | None) -> Any:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _broken(f"{name} cannot be imported", error) from error
        places = " or ".join(dict.fromkeys([folder or os.getcwd(), os.getcwd()]))  # noqa: PTH109 - as in sys.path
        looked = f"a module that is installed, in PYTHONPATH, or in {places}"
        raise WorkerUnavailable("class", f"there is no module {error.name}", looked) from error
    except BaseException as error:
        raise _broken(f"{name} cannot be imported", error) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        where = getattr(module, "__file__", None) or "built in"
        raise WorkerUnavailable(
            "class", f"{name} ({where}) has no {attribute}", _classes_in(module, "a class of that module")
        ) from None
    except BaseException as error:  # a module may have __getattr__
        raise _broken(f"{name}:{attribute} cannot be had", error) from error


def _of_entry_point(name: str) -> Any:
    points = importlib.metadata.entry_points(group=GROUP)
    found = {point.value: point for point in points if point.name == name}
    if len(found) != 1:
        names = ", ".join(sorted({point.name for point in points})) or "there are none"
        what = f"{len(found)} entry points" if found else "no entry point"
        raise WorkerUnavailable("class", f"{what} of that name in the group {GROUP}", f"{_FORMS} ({names})")
    (point,) = found.values()
    try:
        return point.load()
    except BaseException as error:
        raise _broken(f"{point.value} cannot be imported", error) from error


def _made(what: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Any:
    try:
        signature = inspect.signature(what)
    except (ValueError, TypeError):  # some classes of C have none
        signature = None
    if signature is not None:
        _check_options(signature, name.rpartition(":")[2], options)
    try:
        return what(**options)
    except BaseException as error:
        raise _broken(f"{name} cannot be made", error, "options" if options else "class") from error


def _check_options(signature: inspect.Signature, name: str, options: Mapping[str, Any]) -> None:
    """Raises `WorkerUnavailable` for options that it does not take, and those that it cannot do without."""
    kinds = inspect.Parameter
    taken = {one.name: one for one in signature.parameters.values() if one.kind in _BY_NAME}
    takes = f"{name} takes {', '.join(taken)}"[:_MAX_TOLD] if taken else f"none: {name} takes no options"
    if all(one.kind is not kinds.VAR_KEYWORD for one in signature.parameters.values()):
        unknown = [option for option in options if option not in taken]
        if unknown:
            found = f"unknown option{'s' if unknown[1:] else ''} {', '.join(map(repr, unknown))}"[:_MAX_TOLD]
            raise WorkerUnavailable(dotted(("options", unknown[0])), found, takes)
    lacking = [one for one, how in taken.items() if how.default is kinds.empty and one not in options]
    if lacking:
        raise WorkerUnavailable("options", f"no option {', '.join(map(repr, lacking))}"[:_MAX_TOLD], takes)
    try:
        signature.bind(**options)
    except TypeError as error:  # an argument that has no name
        raise WorkerUnavailable(
            "options", str(error)[:_MAX_TOLD], f"what {name}{signature} takes"[:_MAX_TOLD]
        ) from None


def _broken(what: str, error: BaseException, key: str = "class") -> WorkerUnavailable:
    """What somebody's code raised. It is told: whoever starts the daemon or checks its configuration reads this."""
    told = " ".join(words_of(error).split())[:_MAX_TOLD]
    return WorkerUnavailable(key, f"{what}: {told}", "code that runs" if key == "class" else "what the class takes")


def _classes_in(module: Any, otherwise: str) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    return f"one of {', '.join(sorted(own)[:10])}" if own else otherwise


@contextmanager
def _looking_in(folder: str | None) -> Iterator[None]:
    """The folder goes first while the code is imported and made, and stays last, for what it imports later: nothing
    there takes the place of what we import ourselves. Then comes the working directory."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    for entry in (folder, here):
        if entry is not None and entry not in sys.path and not (entry == here and "" in sys.path):
            sys.path.append(entry)
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code may have changed the list
            sys.path.remove(folder)
