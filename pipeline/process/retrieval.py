"""The knowledge process as a child of the supervisor."""

from pipeline.knowledge.process import serve
from pipeline.process.child import Child, run


async def main(child: Child) -> None:
    await serve(child.config, ready=child.ready, stopping=child.stopping)


if __name__ == "__main__":
    run(main)
