"""`python -m benchmarks.load`."""

from benchmarks.load.command import bench

if __name__ == "__main__":
    bench(prog_name="python -m benchmarks.load")
