"""A child as `pipeline.process.child.run` makes it, whose main function only says what it is told."""

import msgspec

from pipeline.process.child import Child, run


async def main(child: Child) -> None:
    given, log = child.inheritance, child.logs.log
    log.warning("born", seat=given.seat, edition=given.edition, layout=msgspec.to_builtins(given.layout))
    child.ready()
    await child.stopping.wait()
    if child.retiring.is_set():
        log.info("retiring")


if __name__ == "__main__":
    run(main)
