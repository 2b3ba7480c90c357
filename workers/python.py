"""The worker that is a class of somebody's own, in the shard's process: found, made, and made safe."""

import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from config.schema import PythonWorker
from workers.base import ModelWorker
from workers.errors import WorkerUnavailable
from workers.python_adapter import adapted

GROUP = "headgate.workers"
_FORMS = f"package.module:Class, or the name of an entry point in the group {GROUP}"
_MAX_TOLD = 500  # characters of an exception


def load(section: PythonWorker) -> ModelWorker:
    """The section's class, found, called with its options, and adapted.

    A dotted path is looked for where Python looks (what is installed, PYTHONPATH), then in the working directory.
    Raises `WorkerUnavailable`.
    """
    made = _made(_found(section.class_), section.class_, section.options)
    if not callable(getattr(made, "generate", None)):
        raise WorkerUnavailable(
            "class", f"{section.class_} has no method generate", "a class with generate(self, request)"
        )
    return adapted(made, section.name)


def _found(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    importlib.invalidate_caches()  # it may have come since
    found = _of_module(module, attribute) if attribute else _of_entry_point(name)
    if not callable(found):
        raise WorkerUnavailable("class", f"{name} is a {type(found).__name__}", "a class")
    made: Callable[..., Any] = found
    return made


def _of_module(name: str, attribute: str) -> Any:
    _look_in_working_directory()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _broken(f"{name} cannot be imported", error) from error
        looked = f"a module that is installed, in PYTHONPATH, or in {os.getcwd()}"  # noqa: PTH109 - as it is in sys.path
        raise WorkerUnavailable("class", f"there is no module {error.name}", looked) from error
    except (Exception, SystemExit) as error:
        raise _broken(f"{name} cannot be imported", error) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        where = getattr(module, "__file__", None) or "built in"
        raise WorkerUnavailable(
            "class", f"{name} ({where}) has no {attribute}", _classes_in(module, "a class of that module")
        ) from None


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
    except (Exception, SystemExit) as error:
        raise _broken(f"{point.value} cannot be imported", error) from error


def _made(what: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Any:
    try:
        signature = inspect.signature(what)
    except (ValueError, TypeError):  # some classes of C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(**options)
        except TypeError as error:
            raise WorkerUnavailable("options", str(error), f"the arguments of {name}{signature}"[:_MAX_TOLD]) from None
    try:
        return what(**options)
    except (Exception, SystemExit) as error:
        raise _broken(f"{name} cannot be made", error, "options" if options else "class") from error


def _broken(what: str, error: BaseException, key: str = "class") -> WorkerUnavailable:
    """What somebody's code raised. It is told: whoever starts the daemon or checks its configuration reads this."""
    told = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_TOLD]
    return WorkerUnavailable(key, f"{what}: {told}", "code that runs" if key == "class" else "what the class takes")


def _classes_in(module: Any, otherwise: str) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    return f"one of {', '.join(sorted(own)[:10])}" if own else otherwise


def _look_in_working_directory() -> None:
    """Last, so that nothing there takes the place of what is installed."""
    folder = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
