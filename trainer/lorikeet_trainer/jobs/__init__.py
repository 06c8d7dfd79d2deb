"""Training jobs: what is asked, what has become of it, and the worker processes that do it. No torch here."""
