"""Several replicas of one server behind Ray Serve: one door, one owner of the registry, adapters kept where they are."""
