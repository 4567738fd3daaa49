"""Records -> one per cell and trial -> tables, published numbers beside ours. Imports no torch."""
