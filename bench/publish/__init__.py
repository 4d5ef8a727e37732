"""The tables and plots of docs/benchmarks.md, from the file of all figures."""
