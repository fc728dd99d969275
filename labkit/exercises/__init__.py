"""The exercises of the course: one module a notebook, one `Exercise` for each of its exercises."""
