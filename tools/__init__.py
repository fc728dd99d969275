"""What authors of the course use; learners don't need it."""
