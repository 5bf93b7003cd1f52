"""The YAML files that maxmig carries: `base.yml`, `models/`, the demos and the benchmarks."""
