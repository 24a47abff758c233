"""The mathematics of the flow: path, time, coupling, objective, guidance, solvers, losses. No network, no data."""
