"""The live dashboard: pages over the sweeps and models of a home, which change nothing."""
