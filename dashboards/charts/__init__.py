"""Charts of sweeps as plotly's figures, for the report and for the live dashboard. Pure: records in, plain JSON out."""
