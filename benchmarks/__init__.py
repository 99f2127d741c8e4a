"""``python -m benchmarks``, of the repository alone: the project's own numbers for its pages, as ratios; :mod:`foveal.bench` measures what its user names."""
