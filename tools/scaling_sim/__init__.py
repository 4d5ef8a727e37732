"""Simulation of workers that KEDA scales by a real queue, which draws a plot for the docs."""
