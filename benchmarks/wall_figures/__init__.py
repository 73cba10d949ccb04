"""What ``benchmarks/walls.py`` measures: one function a figure, which runs under any build of the package."""
