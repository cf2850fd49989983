"""The node agent: live GPU memory, who uses it, and which models are resident, as one report per node."""
