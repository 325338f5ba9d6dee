"""The papers' own runs: data sets checked, a plan with estimates, the stages, the table."""
