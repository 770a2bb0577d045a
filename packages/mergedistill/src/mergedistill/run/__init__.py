"""The stages in their order, each made once: run, status, forecast, ablations."""
