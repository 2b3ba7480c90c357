"""A process that serves one model file: llama.cpp's server on a Unix socket, kept by the supervisor."""

import asyncio
import os
import signal
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from config.schema import LlamaCppWorker
from pipeline.process import gguf, library_log
from pipeline.process.child import Child, run
from pipeline.process.errors import StartError
from pipeline.process.library_log import Said
from workers import llama_files
from workers.llama_files import Files

_LISTEN = 0.5  # seconds between looks at what llama.cpp has said
_LOOK = 0.02  # seconds between looks at whether somebody still uses the model
_ORPHAN_LIMIT = 2.0  # seconds for what is in flight when there is no supervisor any more
_SPARE_THREADS = 64  # of its HTTP server: for looks at its health, and for calls that wait for a slot
_WARNINGS = 2  # the level of its log


async def main(child: Child) -> None:
    """From the model's loading to the end in good order, which waits until no shard uses it. Raises StartError."""
    section = child.inheritance.worker
    assert section is not None  # noqa: S101 - that is what this process was started for
    files = llama_files.files(section, _absolute(child.config.server.data_dir))
    os.umask(0o077)
    library_log.catch(files.said)
    server = await _loaded(child, section, files)
    child.ready()
    telling = asyncio.create_task(_tell(child, files, section))
    await child.stopping.wait()
    await _until_unused(child, files)
    telling.cancel()
    del server


async def _loaded(child: Child, section: LlamaCppWorker, files: Files) -> Any:
    """llama.cpp does not let Python run while it loads: until then SIGTERM ends this process at once."""
    model = _absolute(section.gguf)
    embeds = gguf.embeds(model)
    loop = asyncio.get_running_loop()
    loop.remove_signal_handler(signal.SIGTERM)
    if child.stopping.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    try:
        server = _load(section, model, files, embeds=embeds)
    except RuntimeError as error:
        said = library_log.take(files.said, serving=False)
        _log(child, section, said)
        reason = (library_log.first_error(said) or str(error)).replace(str(model), "its gguf")
        raise StartError(f"llama.cpp cannot load it: {reason}") from error
    loop.add_signal_handler(signal.SIGTERM, child.stopping.set)
    _log(child, section, library_log.take(files.said, serving=False))
    return server


def _load(section: LlamaCppWorker, model: Path, files: Files, *, embeds: bool) -> Any:
    """Returns when it is loaded; llama.cpp answers calls by 503 until then. Raises RuntimeError."""
    llama_cpp = import_module(llama_files.PACKAGE)  # that it is there was checked
    params = llama_cpp.CommonParams()
    files.socket.unlink(missing_ok=True)
    os.chdir(files.socket.parent)  # so that a long path does not matter
    params.model.path = str(model)
    params.model_alias = {llama_files.model_name(section)}
    params.n_parallel = section.slots
    params.n_ctx = section.slots * section.context_tokens
    params.kv_unified = False
    params.n_gpu_layers = section.gpu_layers
    params.fit_params = False  # a model that does not fit is an error, not one with a smaller window
    if section.threads:
        params.cpuparams.n_threads = section.threads
    params.embedding = embeds
    params.cache_ram_mib = 0  # prompts that have lost their slot are not kept: that would be up to 8 GiB
    params.cache_idle_slots = False
    params.hostnames, params.port = [files.socket.name], 0
    params.n_threads_http = 2 * section.slots + _SPARE_THREADS
    params.cors_origins = ""  # no page of a browser reaches a Unix socket
    params.endpoint_slots = True
    params.ui = False
    params.verbosity = _WARNINGS
    return llama_cpp.Server(params)


async def _tell(child: Child, files: Files, section: LlamaCppWorker) -> None:
    while True:
        await asyncio.sleep(_LISTEN)
        _log(child, section, library_log.take(files.said, serving=True))


def _log(child: Child, section: LlamaCppWorker, said: list[Said]) -> None:
    for line in said:
        child.logs.log.log(line.level, "llama_cpp", worker=section.name, said=line.text)


async def _until_unused(child: Child, files: Files) -> None:
    """For as long as the supervisor allows, or where there is none any more, for as long as shards may take then."""
    until: float | None = None
    while not llama_files.unused(files.uses):
        if child.orphaned.is_set():
            now = time.monotonic()
            until = now + _ORPHAN_LIMIT if until is None else until
            if now >= until:
                os._exit(1)  # its server would wait for its calls
        await asyncio.sleep(_LOOK)


def _absolute(path: str) -> Path:
    """Before the folder changes."""
    return Path(path).absolute()


if __name__ == "__main__":
    run(main)
